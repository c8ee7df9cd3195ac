// Choose dark or light before the page is drawn. The choice stays in this browser.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem("streamclf-theme");
    } catch {
      return null; // the browser keeps nothing for this page
    }
  };
  const apply = () => {
    const theme = stored() ?? (system.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    document.documentElement.style.colorScheme = theme;
    globalThis.Quasar?.Dark?.set(theme === "dark");
    dispatchEvent(new CustomEvent("themechange", { detail: theme }));
  };
  globalThis.changeTheme = () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("streamclf-theme", theme);
    } catch {
      // the choice lasts until the page is loaded again
    }
    apply();
  };
  system.addEventListener("change", apply);
  addEventListener("load", apply);
  apply();
})();
