// Names, for screen readers, of what the theme leaves without one; the keyboard reaches what scrolls.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
addEventListener("load", () => {
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap")) table.tabIndex = 0
  document.querySelectorAll(".md-code__nav").forEach((nav, i) => {
    nav.setAttribute("aria-label", `Code ${i + 1}`)
  })
})
