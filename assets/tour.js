// Brings the part of the page that a stop of the tour is about into view, once: when its stop begins.

const PATIENCE = 20000 // ms for the page to be drawn
let shown = ""

export default function ({ data }) {
  const { stop, target } = data
  if (shown === stop) return
  shown = stop
  const until = Date.now() + PATIENCE
  const look = () => {
    if (shown !== stop) return
    const found = target && document.querySelector(`.st-key-${target}`)
    if (found?.offsetHeight) {
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches
      found.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" })
    } else if (target && Date.now() < until) setTimeout(look, 100)
  }
  look()
}
