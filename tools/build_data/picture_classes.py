"""The curated classes of the ``pictures`` set: one line a class, ``name: synonym, synonym, -excluded words``.

A pattern matches whole words (a plural ``s`` or ``es`` is allowed); the name itself is always a pattern unless the
line says ``name= ...``. A word after ``-`` keeps every picture whose text has it out of that class.
"""

CLASSES = """
accordion
airplane: small airplane, airplane departure, airplane arrival, aeroplane, plane, airbus, aircraft, jet, aereo, -paper
alarm clock: sveglia
alien: alien monster, ufo alien
ambulance: ambulans
american football: rugby football, rugby
anchor
angel: cherub
angry face=
ant: formica
apple: red apple, green apple, mela, -logo, -computer, -candied, -pie, -pine, -core team, -pineapple
artist: -palette
astronaut: spaceman, cosmonaut
avocado
axe: pickaxe, hatchet
baby bottle
baby: -bottle, -chick, -angel, -animal, -symbol, -bear, -squirrel, -tux, -pin
backpack: rucksack, zaino
badger
bagel
balance scale: weight scale, kitchen scale
ball player: bouncing ball, playing handball, playing water polo
balloon: balloons, baloon, party balloon, -speech, -thought, -air
banana
bandage: adhesive bandage
banknote: yen banknote, dollar banknote, euro banknote, pound banknote, money with wings, dollar bill
baseball: softball, baseball bat, baseball glove
basket: picnic basket
basketball
bat=bat, vampire bat, -baseball bat, -cricket
bathtub: person taking bath, bath
battery: low battery
beach: beach with umbrella, desert island, -ball, -flag
bear: polar bear, orso, -teddy, -koala
beaver
bed: person in bed, letto
bee: honeybee, wasp, hornet, bumblebee
beer: beer mug, clinking beer mugs, birra
beetle: scarab, -lady
bell: bellhop bell, bell with slash, campana, -jingle
bicycle: bike, bici, -no bicycles
billiard ball: pool 8 ball, billiard, billiards
bird: sparrow, robin, seagull, uccello, pigeon, crow, raven, -house, -cage, -turkey, -rooster, -penguin, -owl, -eagle, -duck, -hat
blueberry: blueberries, -ice cream, -pie, -muffin
bomb: grenade, dynamite
bone: -steak
book: closed book, open book, green book, blue book, orange book, books, libro, bible, notebook, ledger, notebook with decorative cover, -computer, -face
boot: hiking boot, woman’s boot, boots
bottle: jar
bouquet: bunch of flowers
bow and arrow
bowling: bowling ball, bowling pin
boxing glove: boxing
boy: -cow, -game, -symbol, -bathroom, -restroom, -shorts
brain
bread: baguette, flatbread, loaf, toast, pane, -roll
bride: person with veil, man with veil, woman with veil
bridge: bridge at night, -nose
broccoli
broom: mop
bubbles: soap bubbles
bucket: pail
building: office building, skyscraper, hotel, love hotel, department store, hospital, bank, factory, post office, school, -construction, -bus, -piggy
bus: oncoming bus, trolleybus, minibus, autobus, -stop, -usb
butterfly: farfalla, moth
cable car: mountain cableway, aerial tramway, suspension railway
cactus
cake: birthday cake, shortcake, cupcake, muffin, gateau, torta, -fish, -moon, -pan
calendar: tear-off calendar, spiral calendar
camel: two-hump camel
camera: camera with flash, macchina fotografica, -video, -movie
candle: diya lamp, candela
candy: lollipop, sucker, candy cane
canoe: kayak
car: automobile, oncoming automobile, sport utility vehicle, voiture, hummer, jeep, chevrolet, cobra, sportcar, macchina, dodge, skoda, station wagon, -card, -toy
cardboard box: package, parcel, box, outbox tray, inbox tray, takeout box, scatola, -beverage, -mail, -ballot, -gift, -glove, -tool
carousel horse
carrot: carota
castle: japanese castle, fortress
cat: kitten, gatto, kitty, -scan
chain: chains, link, broken chain
chair: seat, sedia, -wheel, -lift
chart: chart increasing, chart decreasing, bar chart, graph, pie chart
cheese: cheese wedge, formaggio, -cake, -burger
chef: cook, cuoco, -cooking, -cookie
cherry blossom: sakura
cherry: cherries, -blossom, -pie
chess piece: chess pawn, pawn, -chessboard
chestnut: acorn
chick: baby chick, hatching chick
chicken leg: poultry leg, drumstick, roast chicken, fried chicken
chicken: rooster, hen, -leg, -fried, -burger
chili pepper: hot pepper, pepper, bell pepper, cayenne, paprika, peperoni
chocolate: chocolate bar, -cake, -ice cream
chopsticks
christmas tree: xmas tree, -tanabata
church: chapel, cathedral
cigarette: cigar, -no smoking, -nosmoke, -lighter
city: cityscape, cityscape at dusk, skyline
clapper board
clock: mantelpiece clock, o’clock, one-thirty, two-thirty, three-thirty, four-thirty, five-thirty, six-thirty, seven-thirty, eight-thirty, nine-thirty, ten-thirty, eleven-thirty, twelve-thirty, orologio
cloud: clouds, cloud with snow, cloud with rain, cloud with lightning, sun behind cloud, sun behind rain cloud, sun behind small cloud, sun behind large cloud, cloud with lightning and rain, nuvola, fog, foggy
clover: shamrock, four leaf clover
clown
coat: lab coat, jacket, -cat
cockroach
cocktail: cocktail glass, tropical drink, martini
coconut
coffee cup=hot beverage, coffee, cup of coffee, teacup, tea, tazza, mug, cup, caffe, kubek, espresso, -world cup, -trophy, -table
coffin
coin: coins, moneta
comet: meteor
compass: bussola
computer mouse: optical mouse, mouse ottico, -trap
computer: desktop computer, monitor, workstation, imac, -laptop, -mouse, -keyboard, -disk, -game, -switch, -router, -chip, -hub, -virus, -icon, -port, -printer, -cd, -floppy, -memory
cookie: biscuit, gingerbread
corn: ear of corn, maize, -popcorn
couple: couple with heart, people holding hands, kiss
cow: ox, bull, bison, water buffalo, calf, toro, cattle, -cowboy, -bull terrier
crab: granchio
credit card
crocodile: alligator
croissant
cross=latin cross, orthodox cross, crucifix, celtic cross, christian cross
crown: corona
crystal ball
cucumber: pickle, zucchini
cyclist: biking, mountain biking
dancer: dancing, ballet dancer, ballerina, -shoe
deer: reindeer, fawn, bamby, elk, antelope
detective: spy
devil: demon, smiling face with horns, angry face with horns
diamond: gem stone, jewel, ruby, emerald, -suit, -orange, -blue, -card, -traffic
die=game die, dice, die, -face card
dinosaur: sauropod, t-rex, dino, dinosauro, tyrannosaurus
disk: optical disk, computer disk, dvd, compact disc, floppy disk, floppy, vinyl, vinyl record, hard disk
doctor: health worker, nurse
dog: poodle, puppy, hound, terrier, bulldog, guide dog, -hot dog, -house, -sugar, -prairie
dolphin: delfino
door: porta
doughnut: donut
dove
dragon: dragone, -dragonfly, -mahjong, -flag, -wales
dress: kimono, sari, skirt
drum: long drum, drums, bongo, tamburo, africandrum, -oil
duck: goose, duckling, mallard
dumpling: perogies
eagle: hawk, falcon, acquila, aquila, vulture, -desert
ear=ear, ears, -corn, -cereal, -people, -men, -women
easter egg: easter eggs
egg: fried egg, eggs, uovo, -nest, -plant, -easter
eggplant: aubergine
electric plug: plug, socket, power outlet
elephant: mammoth, elefante
elevator
elf: man elf, woman elf
envelope: e-mail, incoming envelope, envelope with arrow, love letter, red envelope, letter, busta, mail, -box, -latin
evergreen tree: evergreen, pine tree, fir, conifer, pine, -decoration, -apple
explosion: collision, explode
eye: eyes, -eyebrow, -glasses, -face, -smiling, -cat, -private
facepalming person=facepalming
fairy: pixie
family: -tree
fan: folding hand fan
farmer
fax machine
feather
ferris wheel
film strip: film frames
fire engine: fire truck
fire extinguisher: extinguisher
fire: flame, campfire, -engine, -man, -truck, -extinguisher, -wall, -work, -place, -heart
firefighter: fireman, pompier
fireworks: sparkler, firecracker, firework
fish: blowfish, trout, salmon, pesce, goldfish, -cake, -pole, -hook, -dolphin, -jellyfish
fishing rod: fishing pole, fishing
flamingo: flamand
flashlight: torch
flower: fiore, fleur, orchid, iris, magnolia, blossom, white flower, daffodil, daisy, hibiscus, -pot, -playing cards, -cherry blossom, -sun, -eye
flute: clarinet, recorder
fly: mosquito, zanzara, moschito, housefly, -flying, -butterfly, -dragonfly
flying saucer: ufo
folder: file folder, open file folder, card index dividers, file cabinet, card file box
foot: footprint, feet, -foot ball
fork and knife: fork and knife with plate, fork, cutlery, kitchen knife, -lift, -road, -spoon
fortune cookie
fountain: -pen
fox: -fire
french fries: fries, chips, -poker
frog: rana, toad, froggy
frowning person=person frowning, man frowning, woman frowning, person pouting, man pouting, woman pouting
frying pan: shallow pan of food, padella, cooking pot, saucepan
game controller: video game, joystick, joypad, gamepad, gameboy
garlic
gear: cog, ruota dentata, ingranaggio, -fishing, -landing, -suit
genie
ghost: phantom
gift box: wrapped gift, gift, present
giraffe
girl: -cow, -symbol, -bathroom, -restroom
glasses: eyeglasses, sunglasses, goggles, occhiali, -wine, -clinking, -face
globe: globe showing europe-africa, globe showing americas, globe showing asia-australia, world globe, mappamondo
glove: gloves, mitten, -boxing, -baseball, -box
goat
golfer: golfing, golf, golf player
goose
grapes: grape, uva
grasshopper: cricket, -cricket game
groom: person in tuxedo, man in tuxedo, woman in tuxedo
guard: soldier
guitar: banjo, bass guitar, electric guitar, chitarra
gun: pistol, water pistol, revolver, rifle, handgun
gymnast= cartwheeling
hair comb= hair pick, comb
hamburger: burger, cheeseburger
hammer: martello, mallet, hammer and wrench
hamster
hand: thumbs up, thumbs down, handshake, fist, mano, -handheld, -clock, -horns, -face, -writing
handbag: purse, clutch bag, shopping bag, shopping bags, bag, tote, borsa, -punching, -sleeping, -money
harp: lyre
hat: woman’s hat, top hat, tophat, cappello, graduation cap, billed cap, cap, sombrero, cowboy hat, -face
headphones: headphone, cuffie
heart: -face, -couple, -suit, -anatomical, -eyes, -hands, -exclamation, -card, -kiss, -organ
hedgehog: porcupine
helicopter
helmet: military helmet, rescue worker’s helmet, hard hat
hippopotamus: hippo
hockey stick: field hockey, ice hockey, lacrosse, hockey
honey pot: honey
horse: pony, donkey, cavallo, -sea horse, -carousel, -racing
hot air balloon
hot dog: hotdog, corndog, corn dog
hourglass: hourglass done, hourglass not done
house: houses, hut, cottage, home, house with garden, derelict house, casa, cabin, -dog, -light
ice cream: soft ice cream, shaved ice, icecream, ice cream cone, sundae, gelato
iron: ironing
jellyfish
juggler= juggling
kangaroo: wallaby
key=key, old key, chiave, keys
keyboard=keyboard, computer keyboard, tastiera, -musical
kick scooter
king: prince, person with crown, -chess, -card, -luther, -kingfisher, -martin
kite: -surf
koala
ladder
ladybug: lady beetle, ladybird, coccinella
lamp: couch and lamp
lantern: red paper lantern
laptop: notebook computer
leaf: maple leaf, fallen leaf, leaf fluttering in wind, leaves, foglia
leg: mechanical leg, -chicken, -poultry
lemon: limone
leopard: cheetah, jaguar, panther
light bulb: lightbulb, lampadina, bulb
lighthouse: light house, faro
lightning: high voltage, lightning bolt, thunderbolt
lime
lion: leone, lioness
lipstick
lizard: gecko, geko, lucertola, salamander, iguana, chameleon
llama
lobster: crawfish, crayfish
lotus: water lily, lily
loudspeaker: speaker low volume, speaker medium volume, speaker high volume, muted speaker, speaker
magic wand: wand
magnet
magnifying glass: magnifying glass tilted left, magnifying glass tilted right, lente, magnifier
mailbox: closed mailbox with raised flag, closed mailbox with lowered flag, open mailbox with raised flag, open mailbox with lowered flag, postbox, mail box
man: old man, gentleman, -police, -snow, -spider, -fire, -post, -mail, -stick, -blue
mango
map: world map, map of japan, -symbol
maracas
mask: performing arts, theatre mask, -face, -diving
meat: meat on bone, cut of meat, steak, ham, bacon, salami, pork, beef, sausage
medal: military medal, sports medal, 1st place medal, 2nd place medal, 3rd place medal
meditating person: lotus position, yoga, meditation, meditating
megaphone: bullhorn
melon: watermelon
mermaid: merman, merperson
microbe: virus, bacteria, amoeba
microphone: studio microphone
microscope
milk: glass of milk
mirror ball: disco ball
mirror: -ball
mobile phone: mobile phone with arrow, cell phone, cellphone, cellular, smartphone, handphone
money bag
monkey: gorilla, orangutan, chimpanzee, ape, -wrench
monster: ogre, goblin, troll, hairy creature, domo kun
moon: crescent moon, full moon, new moon, gibbous moon, quarter moon, luna, -cake, -viewing, -face
moose
motorcycle: motor scooter, motorbike, scooter, vespa
mountain: snow-capped mountain, mount fuji, hill, -cableway, -railway, -bike, -biking
mouse=mouse face, mouse, rat, topo, -computer mouse, -trap, -optical, -pointer, -cursor, -arrow, -computer, -hardware, -button, -web
mouth: lips, kiss mark, tongue, -face, -organ
movie camera: film projector, video camera, camcorder
mushroom: champignon, fungo, toadstool
musical note: musical notes, musical score, treble clef, note, clef, music note, -book, -pad
nail polish
necktie: tie, cravat
newspaper: rolled-up newspaper
ninja
octopus: squid
office worker: businessman
oil drum: oil barrel, barrel
onion: cipolla
orange=tangerine, orange fruit, orange slice, half orange, orange, arancia, -book, -heart, -circle, -square, -diamond, -hat
otter
oven: stove, microwave, toaster, refrigerator
owl: gufo
padlock: locked, unlocked, locked with pen, locked with key, lock, lucchetto
paint palette: artist palette, palette
paintbrush: paint brush, brush, -tooth, -hair
palm tree: palmtree
pancakes: pancake
panda
paper clip: paperclip, linked paperclips, -paper -note
parachute
parrot: toucan
party popper: confetti ball, party hat
peace sign: peace symbol, peacesymbol
peach
peacock
peanut
pear: pera, -prickly
pen=fountain pen, pen, ballpoint, black nib, penna, biro, pens
pencil: crayon, matita
penguin: tux, pinguin, pinguino
person bowing: man bowing, woman bowing
person getting a haircut=getting haircut
person getting a massage=getting massage
person in a wheelchair=motorized wheelchair, manual wheelchair, wheelchair
person kneeling: man kneeling, woman kneeling
person making a no gesture=gesturing no
person raising a hand=raising hand
piano: musical keyboard, grand piano
pickaxe= pick, pickaxe, hammer and pick, -hair, -up
picture frame: framed picture, frame
pie: -chart
pig: boar, hog, -piggy bank, -guinea
piggy bank: piggybank
pill: capsule, pills
pilot: -airplane
pineapple: ananas
pizza: pizza slice
planet: ringed planet, saturn, jupiter, mars, -climate
plant: potted plant, houseplant, seedling, -power
playground: playground slide, swing, -sax
playing card: joker, flower playing cards
police car light: siren, police light
police car: oncoming police car, -light
police officer: policeman, policewoman
poop: pile of poo
popcorn
potato: sweet potato, -chip
pretzel
printer: scanner
pumpkin: jack-o-lantern, jack o lantern, -pie
pushpin: round pushpin, thumbtack, push pin, -bowling
puzzle piece: jigsaw
pyramid
queen: princess, -chess, -card, -bee
rabbit: bunny, hare, coniglio, -ears
raccoon
racing car: race car, formula one, formula 1
radio: -active, -button
rainbow
razor: shaver
recycling symbol: recycle, recycling
rhinoceros: rhino
ribbon: bow tie, ribbon bow, reminder ribbon, -arrow, -heart, -rainbow
rice: rice ball, cooked rice, curry rice, -sheaf
ring: -toss, -boxing, -buoy, -planet, -key
road: motorway, highway, -sign, -roadsign, -signs, -symbol
robot
rocket: space shuttle, spaceship, missile
roller coaster
rosary: prayer beads
rose: wilted flower, -rose window, -compass
rower: rowing boat, rowing
ruler: straight ruler, triangular ruler
runner: person running, man running, woman running, jogger, running
sad face=
safety vest: vest
sailboat: sail boat, sailing boat, yacht, -rules, -rule, -points, -knot
salad: leafy green, lettuce, cabbage, insalata
sandal: thong sandal, woman’s sandal, flip flop
sandwich
santa claus: santa, mrs. claus, mx claus, father christmas
satellite dish: satellite antenna, dish antenna
satellite: -dish, -antenna
saw: carpentry saw, chainsaw, -see
saxophone: sax
scarf
scientist
scissors: forbici
scorpion
screw: nut and bolt
screwdriver: cacciavite
scroll: parchment, pergamena, -mouse
seal=seal, sea lion, walrus, -royal
seashell: spiral shell, shell, oyster, clam, -turtle
shark
sheep: ram, ewe, lamb, -ram memory
sheet of paper: page with curl, page facing up, memo, receipt, spiral notepad, document, notepad, clipboard
shield
ship: passenger ship, ferry, motor boat, speedboat, boat, cruise ship, -space, -wheel, -sailing
shirt: t-shirt, running shirt, tshirt, tee shirt, -cat, blouse, sweater
shoe: man’s shoe, running shoe, high-heeled shoe, flat shoe, sneaker, scarpa, ballet shoes, -horse
shopping cart: shopping trolley, cart
shorts
shovel: spade, -suit
shower
shrimp: prawn
shrugging person=shrugging
sick face=
singer: -machine
skate: roller skate, ice skate, rollerblade
skateboard
skier: ski, skis, skiing
skull: skeleton, crossbones, teschio, -face
skunk
sleepy face=
sloth
smiling face=
snail: lumaca, slug
snake: serpent, cobra, serpente, python, -shelby, -boat
snowboarder: snowboard
snowflake: snow flake
snowman: snowman without snow
soap
soccer ball: football ball, soccer, pallone
socks: sock
sofa: couch, armchair, couch and lamp
soft drink: cup with straw, bubble tea, juice, soda, cola, lemonade, pop can, pop can, beverage box
soup: bowl with spoon, pot of food, stew, steaming bowl, -spoon only
spaghetti: pasta, lasagna, noodles, macaroni
speech bubble: speech balloon, thought balloon, left speech bubble, right anger bubble, callout
spider web: cobweb
spider: ragno, -man, -web
sponge
spoon: -bowl
squirrel: chipmunk
stadium: -seat
star: glowing star, shooting star, -struck, -face, -fish, -david, -button, -rating, -trek, -wars, -night
statue: statue of liberty, moai, monument
stethoscope
stop sign: no entry
strawberry: fragola
student: -graduation
suitcase: luggage, briefcase, valigia
sun: sun with face, sole, -flower, -glasses, -behind, -cloud
sunflower: girasole
sunset: sunrise, sunrise over mountains
superhero: supervillain, super hero
surfer: surfing, surfboard
sushi
swan: cigno
swimmer: swimming, -suit
swimsuit: one-piece swimsuit, bikini
sword: dagger, crossed swords, knife, katana, -fork, -kitchen
syringe: injection
table: tavolo, desk, -tennis, -spoon, -pool
taco: burrito, tamale, stuffed flatbread
tank: abrams, battle tank, -water, -oxygen, -diving, -gas, -think, -scuba, -oil
target: bullseye, dartboard, darts
taxi: oncoming taxi
teacher
teapot: kettle
teddy bear: teddy
telephone: telephone receiver, phone, -mobile, -cell
telescope: binoculars
television: tv, televisore, -antenna
temple: mosque, hindu temple, synagogue, shinto shrine, kaaba, shrine
tennis racket: tennis, badminton, ping pong, racket, table tennis
tent: camping, circus tent
test tube: flask, beaker, erlenmeyer, alembic
ticket: admission tickets
tiger: tigre
toilet: wc, water closet, toilette
tomato: pomodoro
tombstone: headstone, gravestone, grave
toolbox: tool box
tooth: teeth, molar
toothbrush: tooth brush
tornado: cyclone, hurricane
tower: tokyo tower, eiffel tower, torre
tractor: bulldozer
traffic light: horizontal traffic light, vertical traffic light, semaforo, stoplight
train: locomotive, railway car, high-speed train, bullet train, metro, light rail, tram, monorail, tram car, mountain railway
trash can: wastebasket, garbage, garbage can, trash, cestino, dustbin, bin, litter in bin sign
treasure chest
tree: deciduous tree, oak, albero, arbre, leafless tree
trophy
trousers: jeans, pants
truck: pickup truck, delivery truck, articulated lorry, lorry, van, -fire
trumpet: trombone, postal horn, tuba, french horn, -sign
tulip: hyacinth
turkey: roast turkey
turtle: tortoise, tartaruga
umbrella: closed umbrella, umbrella with rain drops, umbrella on ground, ombrello, -beach
unicorn: pegasus
urn: funeral urn, amphora, vase
vacuum cleaner: vacuum
vampire: dracula
videocassette: video cassette, audio cassette, cassette
violin: cello, violon, double bass
volcano
volleyball: volley
waffle
walking person: person walking, man walking, woman walking, pedestrian, -no pedestrians
watch: stopwatch, timer clock, cronometro, -watch tower
water drop: droplet, drop of blood, sweat droplets, raindrop, drop
wave: water wave, -hand, -sound, -heat
weightlifter: lifting weights
whale: orca, killer whale
wheel: tire, pneumatico, -dharma, -ferris, -chair, -roulette
windmill
window: -windows, -computer, -webpage, -desktop, -gui, -application, -frame
wine: wine glass, wine bottle, champagne, bottle with popping cork, clinking glasses, vino, -red wine color
wizard: mage, witch
wolf
woman: lady, old woman, -sandal, -hat, -boot, -bug, -beetle
worker: factory worker, construction worker, mechanic, -office
worm: caterpillar, earthworm
wreath: holly, pine decoration
wrench: spanner
wrestler= wrestling
yarn: thread, ball of yarn
zebra: -crossing
zombie: frankenstein
"""
