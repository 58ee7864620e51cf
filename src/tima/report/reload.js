// A report that is still being written: loads itself again and puts the reader back where they were.
(function () {
  var key = "tima-report:" + location.pathname;
  var button = document.getElementById("pause");
  var paused = false;
  function list(selector) { return Array.prototype.slice.call(document.querySelectorAll(selector)); }
  function top(element) { return element.getBoundingClientRect().top; }
  function remember() {
    // the place is kept from the nearest heading above, because what lies over it may have grown
    var above = list("h2[id]").filter(function (heading) { return top(heading) <= 1; }).pop();
    var open = {};
    list("details").forEach(function (fold) { open[fold.getAttribute("data-name")] = fold.open; });
    var state = { x: scrollX, y: scrollY, open: open, paused: paused, heading: above && above.id, offset: above && top(above) };
    try { sessionStorage.setItem(key, JSON.stringify(state)); } catch (refused) { /* storage may be switched off */ }
  }
  function restore() {
    var old = null;
    try { old = JSON.parse(sessionStorage.getItem(key) || "null"); } catch (refused) { /* as if there were none */ }
    if (!old) return;
    paused = old.paused;
    list("details").forEach(function (fold) {
      var name = fold.getAttribute("data-name");
      if (name in old.open) fold.open = old.open[name];
    });
    var heading = old.heading && document.getElementById(old.heading);
    scrollTo(old.x, heading ? top(heading) + scrollY - old.offset : old.y);
  }
  function label() {
    button.textContent = paused ? "Go on updating" : "Pause updates";
    button.setAttribute("aria-pressed", String(paused));
  }
  if ("scrollRestoration" in history) history.scrollRestoration = "manual";
  button.hidden = false; // before the place is looked up: it makes its line taller
  restore();
  label();
  button.addEventListener("click", function () { paused = !paused; label(); remember(); });
  addEventListener("pagehide", remember);
  setInterval(function () {
    if (paused || document.hidden || String(getSelection())) return; // nobody looks, or somebody is copying
    location.reload();
  }, 1000 * Number(document.documentElement.getAttribute("data-reload")));
})();
