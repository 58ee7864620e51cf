// Before the first paint: the theme that was chosen here earlier, else the system's. A plain script, so that it runs at once.
(() => {
  const root = document.documentElement;
  let kept = null;
  try { kept = localStorage.getItem("tima-theme"); } catch { /* storage is switched off */ }
  if (kept === "light" || kept === "dark") root.dataset.theme = kept;
})();
