// Names, for screen readers, of what the theme leaves without one.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
