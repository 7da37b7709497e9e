// Light, dark, or as the system has it. Loaded before the page is drawn, so that nothing flashes.
(() => {
  const NAMES = { auto: "◐ Auto", light: "○ Light", dark: "● Dark" };
  const stored = () => {
    try { return localStorage.getItem("theme") ?? "auto"; } catch { return "auto"; }
  };
  const apply = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (!button) return;
    button.textContent = NAMES[theme] ?? NAMES.auto;
    button.setAttribute("aria-label", theme === "auto" ? "◐ Auto: colours as the system has them" : `${NAMES[theme]} colours`);
  };
  apply(stored());
  document.addEventListener("DOMContentLoaded", () => {
    apply(stored());
    document.getElementById("theme")?.addEventListener("click", () => {
      const order = Object.keys(NAMES);
      const next = order[(order.indexOf(stored()) + 1) % order.length];
      try { localStorage.setItem("theme", next); } catch { /* private windows may refuse */ }
      apply(next);
    });
  });
})();
