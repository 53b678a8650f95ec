// Ties the map, a Plotly figure that Streamlit draws, to the page: tells which points were clicked or drawn round, and
// keeps a ring on the current clip. The figure itself never changes while clips are stepped through, so zoom and
// drawing stay, and a selection travels as one bit per point.

const linked = new WeakMap() // graph → what its handlers look up: they are tied once, the data change

// where a point of a trace stands among all points; the figure's last trace may be contours, which have none
const place = (sizes, { curveNumber, pointNumber }) =>
  sizes.slice(0, curveNumber).reduce((sum, size) => sum + size, 0) + pointNumber

function bits(points, sizes) {
  const count = sizes.reduce((sum, size) => sum + size, 0)
  const bytes = new Uint8Array(Math.ceil(count / 8))
  for (const point of points) bytes[place(sizes, point) >> 3] |= 1 << (place(sizes, point) & 7)
  let text = ""
  for (const byte of bytes) text += String.fromCharCode(byte)
  return btoa(text)
}

function tie(graph) {
  const state = { data: null, send: null, ring: null }
  linked.set(graph, state)
  const tell = (name, about) => {
    const { figure, sizes } = state.data
    if (graph.layout.meta === figure) state.send(name, { figure, ...about(sizes) }) // or an older figure is still there
  }
  const clips = (event) => (event?.points ?? []).filter((point) => point.curveNumber < state.data.sizes.length)
  graph.on("plotly_click", (event) => {
    const [point] = clips(event)
    if (point) tell("clicked", (sizes) => ({ point: place(sizes, point) }))
  })
  graph.on("plotly_selected", (event) => {
    if (event) tell("drawn", (sizes) => ({ bits: bits(clips(event), sizes) })) // without one it was a mere click
  })
  graph.on("plotly_deselect", () => tell("drawn", () => ({ bits: "" })))
  for (const name of ["plotly_afterplot", "plotly_relayouting"]) graph.on(name, () => placeRing(graph, state))
  return state
}

function placeRing(graph, state) {
  if (!state.ring) {
    state.ring = document.createElement("div")
    state.ring.className = "asd-map-ring"
    state.ring.setAttribute("aria-hidden", "true")
    const colour = getComputedStyle(graph).color
    state.ring.style.cssText =
      "position:absolute;width:18px;height:18px;margin:-10px 0 0 -10px;border-radius:50%;pointer-events:none;" +
      `border:2.5px solid ${colour};box-shadow:0 0 0 1.5px var(--st-background-color, Canvas);z-index:5`
    graph.style.position = "relative"
    graph.append(state.ring)
  }
  const { xaxis, yaxis } = graph._fullLayout ?? {}
  const { ring, data } = state
  ring.hidden = true
  if (!xaxis || !data.ring) return
  const [x, y] = [xaxis.d2p(data.ring[0]), yaxis.d2p(data.ring[1])]
  ring.hidden = !(x >= 0 && x <= xaxis._length && y >= 0 && y <= yaxis._length)
  ring.style.display = ring.hidden ? "none" : "block"
  ring.style.left = `${xaxis._offset + x}px`
  ring.style.top = `${yaxis._offset + y}px`
  ring.dataset.clip = data.clip
}

let latest = null // what the page said last
let watch = null

function look() {
  const graph = document.querySelector(`.st-key-${latest.data.key} .js-plotly-plot`)
  if (!graph?.on || !graph._fullLayout?.xaxis) return
  const state = linked.get(graph) ?? tie(graph)
  if (state.data === latest.data) return
  Object.assign(state, latest)
  placeRing(graph, state)
}

export default function ({ data, setTriggerValue }) {
  latest = { data, send: setTriggerValue }
  watch ??= new MutationObserver(look) // the figure may be drawn later than this, or anew
  watch.observe(document.body, { childList: true, subtree: true })
  look()
  return () => watch.disconnect()
}
