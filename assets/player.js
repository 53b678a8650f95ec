// One clip to look at and to listen to; pages/components/player.py says which. player_audio.js, put before this file,
// makes it sound. Text reaches the page as text, never as markup.

import { clamp, Deck, load, RATE, speaker } from './player_audio.js'

const SHORTEST = 0.02 // s, of a loop
const [ORANGE, RED] = [[255, 128, 0], [190, 0, 50]] // of a map: at the top of its scale, and far above it
const JOINT = 0.6 // of the colour bar, where the scale ends and what lies above it begins
const SIDES = { near: [[1, 1], [0, 0]], far: [[0, 0], [1, 1]], both: [[1, 0], [0, 1]] } // [microphone][ear]
const KEYS = { ' ': 'play', n: 'swap', l: 'loop', m: 'heat', b: 'other', o: 'anomaly', h: 'help' }
const TYPED = 'input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable=true], [role=slider], ' +
  '[role=combobox], [role=textbox], [role=spinbutton], [role=listbox], [role=menu]'
const PRESSED = 'button, summary, input, [role=button], [role=tab], [role=switch], [role=option]'

const settings = { channel: 'near', matched: false, speed: 1, heat: true, opacity: 55 } // stay from clip to clip
const mounted = new Set()
const players = new WeakMap()

const inHertz = (hertz) => (hertz < 1000 ? `${Math.round(hertz)} Hz` : `${+(hertz / 1000).toFixed(2)} kHz`)
const inDecibel = (value) => `${value > 0 ? '+' : ''}${value.toFixed(1).replace('-', '−')} dB`
const digits = (value) => `${+value.toPrecision(4)}`.replace('-', '−')
const add = (parent, tag, className = '', properties = {}) =>
  parent.appendChild(Object.assign(document.createElement(tag), { className, ...properties }))

class Player {
  frames = []
  looping = false
  heard = 'clip'
  deck = new Deck((...place) => this.gain(...place), () => this.render())

  constructor(root) {
    this.root = root
    this.host = root.getRootNode().host
    this.find = (selector) => root.querySelector(selector)
    this.button = (action) => this.find(`[data-do=${action}]`)
    const { deck } = this
    root.player = { // for tests
      time: () => deck.time, sounds: () => Object.keys(deck.buffers),
      running: () => speaker?.state === 'running', rms: () => deck.level(), power: (low, high) => deck.level(low, high),
    }
    root.onclick = ({ target }) => {
      const { do: action, channel } = target.closest('[data-do]')?.dataset ?? {}
      if (action) this[action](channel)
    }
    root.onmousedown = (event) => {
      if (!event.target.closest('button, .wave, .frame')) return
      event.preventDefault() // the focus goes to the player, so that Space plays whatever was clicked last
      root.focus({ preventScroll: true })
    }
    root.onkeydown = (event) => this.ownKey(event)
    this.find('select').onchange = ({ target }) => {
      settings.speed = +target.value
      this.deck.set({ speed: settings.speed })
    }
    this.find('input').oninput = ({ target }) => {
      settings.opacity = +target.value
      this.render()
    }
    this.sizes = new ResizeObserver(() => this.paint())
    this.sizes.observe(this.find('.plot'))
  }

  dispose() {
    this.deck.stop()
    this.sizes.disconnect()
    mounted.delete(this)
    if (mounted.size) return
    document.removeEventListener('keydown', anyKey)
    document.removeEventListener('keydown', inTable, true)
  }

  // ---- what is shown

  update(data, mark) {
    const isNew = this.data?.clip.sound !== data.clip.sound
    if (isNew || this.data.about !== data.about) {
      const column = this.host.closest('[data-testid=stColumn]')
      if (column) column.scrollTop = 0
    }
    const isArrival = !this.data && document.activeElement?.matches('a[href]') // a link led here, and to any clip
    const isAskedFor = !isNew && data.other && data.playOther > this.data.playOther
    const hasOther = this.data?.other?.sound === data.other?.sound && this.data?.anomaly === data.anomaly
    Object.assign(this, { data, mark, message: '', place: -1 })
    if (isNew) {
      this.deck.stop()
      Object.assign(this.deck, { seconds: data.clip.seconds, at: 0, buffers: {}, loop: null, speed: settings.speed })
      Object.assign(this, { span: null, looping: false, marker: null, heard: 'clip', isReady: false, isBroken: false })
      this.isWanted = data.autoplay && hasBeenUsed() && !isArrival
      this.deck.tune(null)
      this.fetch('clip')
    } else if (!hasOther) {
      this.heard = 'clip'
      delete this.deck.buffers.other
      delete this.deck.buffers.anomaly
      if (this.deck.take) this.deck.set({})
    }
    if (data.other && !this.deck.buffers.other) this.fetch('other')
    this.matching = matching([data.clip, data.other].filter(Boolean))
    this.deck.mix()
    this.layOut()
    this.render()
    if (isAskedFor) this.playOther()
  }

  address(name) {
    return name === 'anomaly' ? this.data.anomaly : this.data[name]?.sound
  }

  async fetch(name) {
    const address = this.address(name)
    const isMeant = () => this.address(name) === address // and no other clip has taken its place meanwhile
    try {
      const buffer = await load(address)
      if (!isMeant() || this.deck.buffers[name]) return isMeant()
      this.deck.put(name, buffer)
    } catch (error) {
      if (isMeant()) this.fail(name, error)
      return false
    }
    if (name === 'clip') {
      this.isReady = true
      if (this.isWanted) this.play()
    }
    this.render()
    return true
  }

  fail(name, error) {
    const what = { clip: 'The sound', other: 'The other clip', anomaly: 'The sound of the anomaly' }[name]
    this.message = `${what} could not be loaded (${error.message}).`
    if (name === 'clip') {
      this.isBroken = true
      this.message += ' The pictures are what is stored of it. Play tries again.'
    }
    this.render()
  }

  layOut() {
    const { data } = this
    const plot = this.find('.plot')
    plot.replaceChildren()
    this.wave = add(plot, 'div', 'wave', { role: 'slider', tabIndex: 0, ariaLabel: 'Playhead', ariaValueMin: 0 })
    this.wave.ariaValueMax = data.clip.seconds
    this.waveform = add(this.wave, 'canvas')
    this.waveBox = add(this.wave, 'div', 'box')
    this.gestures(this.wave)
    this.peak = add(plot, 'span', 'peak')
    this.frames = data.clip.channels.map((channel, number) => this.frame(plot, channel.name, number))
    const seconds = add(plot, 'div', 'seconds')
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10].find((one) => data.clip.seconds / one <= 6) ?? 30
    for (let t = 0; t <= data.clip.seconds; t += step)
      add(seconds, 'span', '', { textContent: `${+t.toFixed(1)} s` }).style.left = `${(100 * t) / data.clip.seconds}%`
    const over = add(plot, 'div', 'over')
    over.style.gridRowEnd = `span ${this.frames.length + 1}`
    seconds.style.gridRow = this.frames.length + 2
    ;[this.cursor, this.pointer, this.sign] = ['cursor', 'pointer', 'marker'].map((name) => add(over, 'i', name))
    this.pointer.hidden = true
    for (const { picture } of data.other?.channels ?? []) if (picture) new Image().src = picture // ready for the switch
    this.root.classList.toggle('compact', data.compact)
    for (const one of ['.map', '.about', '.legend']) this.find(one).hidden = !data.heat
    if (data.heat?.values.length) {
      this.cells = cells(data.heat)
      this.most = data.heat.values.flat().reduce((a, b) => Math.max(a, b))
    }
    this.palette = new Map(data.palette.match(/.{6}/g).map((colour, index) => [parseInt(colour, 16), index]))
    this.read(null)
  }

  frame(plot, name, number) {
    const row = String(number + 2)
    const hertz = add(plot, 'div', 'hertz')
    for (const [place, label] of this.data.ticks)
      add(hertz, 'span', '', { textContent: label }).style.bottom = `${Math.min(place, 0.96) * 100}%`
    const area = add(plot, 'div', 'frame')
    const image = add(area, 'img')
    const map = add(area, 'canvas')
    const box = add(area, 'div', 'box')
    const cross = add(area, 'div', 'cross', { hidden: true })
    add(area, 'span', 'name', { textContent: name })
    const absent = add(plot, 'p', 'absent')
    const scale = add(plot, 'div', 'decibel')
    const colours = this.data.palette.match(/.{6}/g).filter((_, index) => index % 15 === 0)
    add(scale, 'i').style.background = `linear-gradient(to top, ${colours.map((one) => `#${one}`).join(',')})`
    const levels = [0, 0.5, 1].map((part) => {
      const label = add(scale, 'span')
      label.style.bottom = `${clamp(part, 0.05, 0.95) * 100}%`
      return [part, label]
    })
    for (const one of [hertz, area, absent, scale]) one.style.gridRow = row
    const made = { name: name.toLowerCase(), area, image, map, box, cross, absent, levels, around: [hertz, area, scale] }
    this.gestures(area, made)
    return made
  }

  get shown() {
    return this.heard === 'other' ? this.data.other : this.data.clip
  }

  get channel() {
    return this.shown.levels.length < 2 ? 'near' : settings.channel
  }

  gain(name, microphone, ear) {
    if (name !== this.heard) return 0
    const matched = settings.matched ? 10 ** (this.matching.get(this.shown)[microphone] / 20) : 1
    return SIDES[this.channel][microphone][ear] && matched
  }

  get map() {
    const { heat } = this.data
    return heat?.values.length && settings.heat && this.heard !== 'other' ? heat : null
  }

  get state() {
    if (this.isBroken) return 'error'
    return this.deck.take ? 'playing' : this.isReady ? 'paused' : 'loading'
  }

  render() {
    const { root, shown, channel, data, deck, heard } = this
    const { loop, band } = deck
    Object.assign(root.dataset, {
      clip: data.clip.clip_id, state: this.state, channel, heard,
      loop: loop ? `${loop.start.toFixed(3)}-${loop.stop.toFixed(3)}` : '',
      band: band ? `${band.low.toFixed(1)}-${band.high.toFixed(1)}` : '',
    })
    root.classList.toggle('mapped', Boolean(this.map))
    this.find('.title').textContent = { other: `B: ${shown.title}`, anomaly: `Only the anomaly: ${shown.title}` }[heard]
      ?? (data.other ? `A: ${shown.title}` : shown.title)
    this.find('.title').title = shown.clip_id
    this.find('.play span').textContent = deck.take ? 'Pause' : 'Play'
    this.press('loop', this.looping)
    this.press('matched', settings.matched)
    this.press('other', heard === 'other', data.other)
    this.press('anomaly', heard === 'anomaly', data.anomaly)
    for (const button of root.querySelectorAll('[data-channel]')) {
      button.ariaPressed = button.dataset.channel === channel
      button.disabled = button.dataset.channel !== 'near' && shown.levels.length < 2
    }
    this.find('select').value = settings.speed
    this.renderPictures()
    this.renderMap()
    this.find('.said').textContent = this.message || this.inWords()
    this.boxes({ span: this.span ?? (band && { start: 0, stop: data.clip.seconds }), band })
    this.paint()
    this.tick()
  }

  press(action, isPressed, isThere = true) {
    this.button(action).ariaPressed = isPressed
    this.button(action).hidden = !isThere
  }

  renderPictures() {
    const { shown, data } = this
    this.frames.forEach((frame, number) => {
      const { picture, alt, reason } = shown.channels[number] ?? { picture: '', reason: 'No such channel.' }
      for (const one of frame.around) one.hidden = !picture
      frame.absent.hidden = Boolean(picture)
      frame.absent.textContent = `${frame.name}: ${reason}`
      frame.area.classList.toggle('heard', this.channel === 'both' || this.channel === frame.name)
      for (const [part, label] of frame.levels)
        label.textContent = `${Math.round(shown.low + (shown.high - shown.low) * part)} dB`.replace('-', '−')
      if (picture && frame.image.getAttribute('src') !== picture) Object.assign(frame.image, { src: picture, alt })
      frame.image.style.width = `${(100 * shown.seconds) / data.clip.seconds}%`
      frame.map.style.opacity = settings.opacity / 100
      frame.map.hidden = !this.map || (this.map.channel && this.map.channel !== frame.name)
    })
    const ears = this.channel === 'far' ? 1 : 0
    this.peak.textContent = `peak\n${inDecibel(shown.levels[ears][0])}`
    this.peak.title = `Peak level of the ${ears ? 'far' : 'near'} microphone, relative to full scale`
  }

  renderMap() {
    const { heat } = this.data
    if (!heat) return
    const isThere = heat.values.length > 0
    this.press('heat', isThere && settings.heat)
    this.button('heat').disabled = !isThere
    this.button('hottest').disabled = !heat.places.length
    Object.assign(this.find('input'), { value: settings.opacity, disabled: !isThere })
    const about = [heat.branch && `Branch ${heat.branch}.`, heat.unit]
    if (this.heard === 'other') about.push('Not shown over B.')
    this.find('.about').textContent = isThere ? about.filter(Boolean).join(' ') : heat.reason
    const legend = this.find('.legend')
    legend.hidden = !isThere
    if (!isThere) return
    const { low, high, threshold } = heat
    const isAbove = this.most > high
    const joint = isAbove ? JOINT : 1
    const at = (value) => value <= high
      ? (joint * (value - low)) / (high - low)
      : joint + ((1 - joint) * (value - high)) / (this.most - high)
    const bar = legend.querySelector('i')
    const stops = ['transparent', `${this.colour(high)} ${100 * joint}%`, this.colour(Math.max(this.most, high))]
    bar.style.background = `linear-gradient(to right, ${stops.join(', ')})`
    bar.replaceChildren()
    if (threshold !== null && threshold >= low && threshold <= Math.max(high, this.most))
      add(bar, 'b', '', { title: `Contour: ${digits(threshold)}` }).style.left = `${100 * at(threshold)}%`
    for (const one of legend.querySelectorAll('span')) one.remove()
    const labels = [[0, digits(low)], [joint, digits(high)], isAbove && [1, `${digits(this.most)} highest`]]
    for (const [place, label] of labels.filter(Boolean)) {
      const span = add(legend, 'span', '', { textContent: label })
      Object.assign(span.style, { left: `${100 * place}%`, transform: `translateX(${-100 * place}%)` })
    }
  }

  // Clear to orange along the scale, which all clips of a machine share, so that a calm one looks calm. Above it ever
  // redder up to the clip's highest, so that the strongest place stands out; but a little above is only a little red.
  colour(value) {
    const { low, high } = this.data.heat
    const above = clamp((value - high) / Math.max(this.most - high, high - low), 0, 1)
    const [red, green, blue] = ORANGE.map((from, i) => Math.round(from + above * (RED[i] - from)))
    return `rgba(${red}, ${green}, ${blue}, ${clamp((value - low) / (high - low), 0, 1)})`
  }

  inWords() {
    const { deck, span, channel, shown } = this
    const what = { clip: '', other: ' B, the other clip', anomaly: ' only the anomaly' }[this.heard]
    const said = [{ playing: `Playing${what}`, paused: `Paused${what && `:${what}`}`, loading: 'Loading the sound …' }[this.state]]
    said.push(channel === 'both' ? 'near left, far right' : `${channel} microphone`)
    if (settings.matched) {
      const applied = this.matching.get(shown)
      const named = ['near', 'far'].slice(0, applied.length).filter((name) => channel === 'both' || channel === name)
      said.push(`matched: ${named.map((name) => `${name} ${inDecibel(applied[name === 'near' ? 0 : 1])}`).join(', ')}`)
    } else said.push('true level')
    if (settings.speed !== 1) said.push(`${settings.speed}× speed`)
    if (deck.loop) said.push(span ? `loop ${span.start.toFixed(2)}–${span.stop.toFixed(2)} s` : 'loop')
    if (deck.band) said.push(`only ${inHertz(deck.band.low)} to ${inHertz(deck.band.high)}`)
    const { places = [] } = this.data.heat ?? {}
    if (this.place >= 0) {
      const { score, words } = places[this.place]
      said.push(`place ${this.place + 1} of ${places.length} (${digits(score)})`, words)
    }
    return said.filter(Boolean).join(' · ')
  }

  // Runs with the screen while something plays, else once.
  tick() {
    const { deck, data } = this
    const seconds = deck.time
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches
    const shown = still && deck.take ? Math.floor(seconds * 4) / 4 : seconds
    this.cursor.style.left = `${(100 * shown) / data.clip.seconds}%`
    this.root.dataset.time = seconds.toFixed(3)
    const clock = `${seconds.toFixed(2)} / ${data.clip.seconds.toFixed(2)} s`
    if (this.find('.clock').textContent !== clock) this.find('.clock').textContent = clock
    this.wave.ariaValueNow = seconds.toFixed(1)
    this.wave.ariaValueText = `${seconds.toFixed(1)} of ${data.clip.seconds.toFixed(1)} seconds`
    cancelAnimationFrame(this.next)
    if (deck.take && this.root.isConnected) this.next = requestAnimationFrame(() => this.tick())
  }

  // ---- pictures of its own

  paint() {
    if (!this.data) return
    this.paintWave()
    for (const { map } of this.frames) if (this.data.heat?.values.length) this.paintMap(fitted(map))
  }

  paintWave() {
    const buffer = this.deck.buffers[this.heard]
    const brush = fitted(this.waveform)
    if (!buffer || !brush) return
    const { width, height } = brush.canvas
    const wave = buffer.getChannelData(this.channel === 'far' ? Math.min(1, buffer.numberOfChannels - 1) : 0)
    const loudest = 10 ** (Math.max(...[this.data.clip, this.data.other].flatMap((one) => one?.levels ?? []).map(([peak]) => peak)) / 20)
    brush.fillStyle = getComputedStyle(this.root).color
    for (let x = 0; x < width; x++) {
      let low = 0
      let high = 0
      const end = Math.floor(((x + 1) * wave.length) / width)
      for (let i = Math.floor((x * wave.length) / width); i < end; i++) {
        low = Math.min(low, wave[i])
        high = Math.max(high, wave[i])
      }
      const top = (height / 2) * (1 - high / loudest)
      brush.fillRect(x, top, 1, Math.max(1, (height / 2) * (1 - low / loudest) - top))
    }
  }

  paintMap(brush) {
    if (!brush) return
    const { values, threshold } = this.data.heat
    const { width, height } = brush.canvas
    const x = this.cells.times.map((t) => Math.round((width * t) / this.data.clip.seconds))
    const y = this.cells.edges.map((hertz) => Math.round(height * (1 - this.up(hertz))))
    values.forEach((row, u) => row.forEach((value, f) => {
      brush.fillStyle = this.colour(value)
      brush.fillRect(x[u], y[f + 1], x[u + 1] - x[u], y[f] - y[f + 1])
    }))
    if (threshold === null) return
    const isOver = (u, f) => values[u]?.[f] >= threshold
    brush.beginPath()
    const line = (...ends) => ends.forEach(([a, b], last) => (last ? brush.lineTo(a, b) : brush.moveTo(a, b)))
    values.forEach((row, u) => row.forEach((_, f) => {
      if (isOver(u, f) !== isOver(u + 1, f)) line([x[u + 1], y[f]], [x[u + 1], y[f + 1]])
      if (isOver(u, f) !== isOver(u, f + 1)) line([x[u], y[f + 1]], [x[u + 1], y[f + 1]])
      if (!u && isOver(u, f)) line([x[u], y[f]], [x[u], y[f + 1]])
      if (!f && isOver(u, f)) line([x[u], y[f]], [x[u + 1], y[f]])
    }))
    for (const [colour, wide] of [['#000', 4], ['#fff', 1.5]]) {
      Object.assign(brush, { strokeStyle: colour, lineWidth: wide * devicePixelRatio })
      brush.stroke()
    }
  }

  // 0 at the bottom of the pictures, 1 at their top; as asd_core/data/spectrogram.py has it
  up(hertz) {
    const [start, place, end] = [this.data.range[0], Math.max(hertz, this.data.range[0]), this.data.range[1]].map(this.bend)
    return clamp((place - start) / (end - start), 0, 1)
  }

  hertz(up) {
    const [start, end] = this.data.range.map(this.bend)
    const bent = start + up * (end - start)
    return { mel: 700 * Math.expm1(bent), log: Math.exp(bent), linear: bent }[this.data.clip.axis]
  }

  bend = (hertz) => ({ mel: Math.log1p(hertz / 700), log: Math.log(hertz), linear: hertz })[this.data.clip.axis]

  // ---- mouse

  gestures(area, frame = null) {
    const point = ({ clientX, clientY }) => {
      const { left, top, width, height } = area.getBoundingClientRect()
      const x = clamp((clientX - left) / width, 0, 1)
      const y = clamp((clientY - top) / height, 0, 1)
      return { x: clientX, seconds: x * this.data.clip.seconds, hertz: this.hertz(1 - y), y }
    }
    let from = null
    let drawn = null
    area.onpointerdown = (event) => {
      if (event.button) return
      area.setPointerCapture(event.pointerId)
      ;[from, drawn] = [point(event), null]
    }
    area.onpointermove = (event) => {
      const to = point(event)
      this.read(to, frame)
      if (from && (drawn || Math.abs(to.x - from.x) > 4)) {
        const hasBand = frame && (event.altKey || event.shiftKey) && Math.abs(to.y - from.y) > 0.02
        drawn = { span: ordered(from.seconds, to.seconds, 'start', 'stop') }
        drawn.band = hasBand ? ordered(from.hertz, to.hertz, 'low', 'high') : null
        this.boxes(drawn)
      }
    }
    area.onpointerup = () => {
      if (drawn) this.enclose(drawn)
      else if (from) this.seek(from.seconds)
      from = null
    }
    area.onpointercancel = () => {
      from = null
      this.render()
    }
    area.onpointerleave = () => this.read(null)
    area.ondblclick = (event) => {
      const { seconds, hertz } = point(event)
      this.marker = { clip_id: this.data.clip.clip_id, seconds, hertz: frame ? hertz : null }
      this.mark(this.marker)
      this.render()
    }
  }

  read(point, frame) {
    const said = this.find('.read')
    this.pointer.hidden = !point
    for (const one of this.frames) one.cross.hidden = one !== frame || !point
    said.textContent = 'Click to seek, drag to loop, Alt-drag to hear a band'
    if (!point) return
    this.pointer.style.left = `${(100 * point.seconds) / this.data.clip.seconds}%`
    const parts = [`${point.seconds.toFixed(3)} s`]
    if (frame) {
      frame.cross.style.top = `${100 * point.y}%`
      parts.push(inHertz(point.hertz), this.decibel(frame, point), this.patch(point))
    }
    said.textContent = parts.filter(Boolean).join(' · ')
  }

  // The picture is lossless and its colours are a table, so a level can be read back to half a step.
  decibel(frame, { seconds, y }) {
    const { image } = frame
    if (!image.complete || !image.naturalWidth) return ''
    if (frame.pixelsOf !== image.src) {
      const sheet = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext('2d')
      sheet.drawImage(image, 0, 0)
      frame.pixels = sheet.getImageData(0, 0, image.naturalWidth, image.naturalHeight)
      frame.pixelsOf = image.src
    }
    const { width, height, data } = frame.pixels
    const column = Math.floor((seconds / this.shown.seconds) * width)
    if (column >= width) return ''
    const at = 4 * (Math.min(Math.floor(y * height), height - 1) * width + column)
    const index = this.palette.get((data[at] << 16) | (data[at + 1] << 8) | data[at + 2])
    if (index === undefined) return ''
    const { low, high } = this.shown
    const level = Math.round(low + ((high - low) * (index + 0.5)) / 256)
    return `${index ? (index === 255 ? '≥ ' : '') : '≤ '}${String(level).replace('-', '−')} dB`
  }

  patch({ seconds, hertz }) {
    if (!this.map) return ''
    const { times, edges } = this.cells
    const u = times.findIndex((t, i) => seconds >= t && seconds < times[i + 1])
    const f = edges.findIndex((edge, i) => hertz >= edge && hertz < edges[i + 1])
    return u < 0 || f < 0 ? '' : `patch ${digits(this.map.values[u][f])}`
  }

  boxes({ span, band }) {
    const { seconds } = this.data.clip
    for (const box of [this.waveBox, ...this.frames.map((frame) => frame.box)]) {
      box.hidden = !span
      if (!span) continue
      box.classList.toggle('idle', !this.looping)
      box.style.left = `${(100 * span.start) / seconds}%`
      box.style.width = `${(100 * (span.stop - span.start)) / seconds}%`
      if (box.parentNode === this.wave) continue
      box.style.top = `${100 * (1 - (band ? this.up(band.high) : 1))}%`
      box.style.bottom = `${100 * (band ? this.up(band.low) : 0)}%`
    }
    this.sign.hidden = !this.marker
    if (this.marker) this.sign.style.left = `${(100 * this.marker.seconds) / seconds}%`
  }

  // ---- what can be done

  key(event) {
    const list = this.find('details')
    if (event.key === 'Escape' && list.open) {
      list.open = false
      return
    }
    const action = KEYS[event.key?.toLowerCase()]
    if (!action || event.defaultPrevented || event.repeat || isTaken(event)) return
    event.preventDefault()
    const button = this.button(action)
    if (!button || !(button.hidden || button.disabled)) this[action]()
  }

  ownKey(event) {
    if (event.target.matches('select')) event.stopPropagation() // it is typed in, whatever the page has on these keys
    const { deck } = this
    const goal = { ArrowLeft: deck.time - 1, ArrowRight: deck.time + 1, Home: 0, End: deck.seconds }[event.key]
    if (event.key === 'Escape' && !this.find('details').open) this.clear()
    else if (goal !== undefined && !event.target.matches('input, select')) {
      event.preventDefault()
      this.seek(clamp(goal, 0, deck.seconds))
    } else this.key(event)
  }

  play() {
    const { deck } = this
    this.message = ''
    if (this.isBroken) {
      this.isBroken = false
      this.fetch('clip')
    }
    this.isWanted = !this.isReady
    if (deck.take) deck.stop()
    else if (this.isReady) {
      for (const player of mounted) if (player.deck.take) player.play() // one at a time
      deck.start()
    }
    this.render()
  }

  seek(seconds) {
    if (this.looping && this.span && (seconds < this.span.start || seconds > this.span.stop)) this.loop()
    this.deck.move(seconds)
    this.render()
  }

  enclose({ span, band }) {
    const stop = Math.max(span.stop, span.start + SHORTEST)
    Object.assign(this, { span: { ...span, stop }, looping: true, place: -1 })
    this.deck.tune(band)
    this.setLoop()
    this.deck.move(span.start)
    this.render()
  }

  setLoop() {
    const { start, stop } = this.span ?? { start: 0, stop: this.data.clip.seconds }
    const whole = (seconds) => Math.round(seconds * RATE) / RATE
    this.deck.set({ loop: this.looping ? { start: whole(start), stop: whole(stop) } : null })
    this.render()
  }

  loop() {
    this.looping = !this.looping
    this.setLoop()
  }

  clear() {
    Object.assign(this, { span: null, looping: false, marker: null, place: -1 })
    this.deck.tune(null)
    this.setLoop()
  }

  hottest() {
    const { places } = this.data.heat
    const next = (this.place + 1) % places.length
    const { start, stop, low, high } = places[next]
    this.enclose({ span: { start, stop }, band: { low, high } })
    this.place = next
    if (!this.deck.take) this.play()
    this.render()
  }

  pick(channel) {
    settings.channel = channel
    this.deck.mix()
    this.render()
  }

  swap() {
    if (this.shown.levels.length > 1) this.pick(this.channel === 'near' ? 'far' : 'near')
  }

  matched() {
    settings.matched = !settings.matched
    this.deck.mix()
    this.render()
  }

  heat() {
    settings.heat = !settings.heat
    this.render()
  }

  other() {
    this.hear('other')
  }

  anomaly() {
    this.hear('anomaly')
  }

  async playOther() {
    if (this.heard !== 'other') await this.hear('other')
    if (this.heard === 'other' && !this.deck.take) this.play()
  }

  async hear(name) {
    const wanted = this.heard === name ? 'clip' : name
    if (wanted !== 'clip' && !this.deck.buffers[wanted]) {
      this.message = 'Loading the sound …'
      this.render()
      if (!(await this.fetch(wanted))) return
    }
    Object.assign(this, { message: '', heard: wanted })
    this.deck.mix()
    this.render()
  }

  help() {
    const list = this.find('details')
    list.open = !list.open
    if (list.open) this.root.scrollIntoView({ block: 'nearest' })
  }
}

// dB per microphone that bring all to one RMS level, the loudest at which none passes full scale; silence stays.
function matching(sounds) {
  const audible = sounds.flatMap(({ levels }) => levels).filter(([, rms]) => rms > -100)
  const wanted = Math.min(Math.max(...audible.map(([, rms]) => rms)), ...audible.map(([peak, rms]) => rms - peak))
  return new Map(sounds.map((sound) => [sound, sound.levels.map(([, rms]) => (rms > -100 ? wanted - rms : 0))]))
}

// Where a map's cells are drawn: stretches that overlap share the overlap between them.
function cells({ start, stop, edges }) {
  const inner = start.slice(1).map((next, u) => (stop[u] > next ? (stop[u] + next) / 2 : next))
  return { times: [start[0], ...inner, stop.at(-1)], edges }
}

function fitted(canvas) {
  const width = Math.round(canvas.clientWidth * devicePixelRatio)
  const height = Math.round(canvas.clientHeight * devicePixelRatio)
  if (!width || !height) return null
  Object.assign(canvas, { width, height }) // empties it too
  return canvas.getContext('2d')
}

function ordered(a, b, low, high) {
  return { [low]: Math.min(a, b), [high]: Math.max(a, b) }
}

// Whether what has the focus needs the key itself, or the key belongs to someone else.
function isTaken(event) {
  const target = event.composedPath()[0]
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return true
  if (!(target instanceof Element) || target.closest('.wave')) return false
  return Boolean(target.closest(TYPED) || (event.key === ' ' && target.closest(PRESSED)))
}

// Whether the browser lets sound begin by itself. Its own word is not enough: a script that drives it counts as a user.
function hasBeenUsed() {
  const counts = performance.eventCounts
  const isTouched = !counts || ['pointerdown', 'keydown'].some((name) => counts.get(name))
  return isTouched && navigator.userActivation.hasBeenActive
}

// Keys that are pressed elsewhere on the page go to the player that stands last and can be seen.
function anyKey(event) {
  const seen = [...mounted].filter(({ root }) => root.getClientRects().length)
  const follows = (one, other) => one.host.compareDocumentPosition(other.host) & Node.DOCUMENT_POSITION_FOLLOWING
  if (seen.length) seen.reduce((one, other) => (follows(one, other) ? other : one)).key(event)
}

// A table would open its cell with Space; Enter does that too, so Space plays there as everywhere.
function inTable(event) {
  const target = event.composedPath()[0]
  if (event.key !== ' ' || !(target instanceof Element) || !target.closest('[data-testid=stDataFrame]')) return
  anyKey(event)
  if (event.defaultPrevented) event.stopPropagation()
}

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector('.player')
  if (!players.has(root)) {
    if (!mounted.size) {
      document.addEventListener('keydown', anyKey)
      document.addEventListener('keydown', inTable, true)
    }
    players.set(root, new Player(root))
    mounted.add(players.get(root))
  }
  const player = players.get(root)
  const text = JSON.stringify(data)
  if (player.text !== text) {
    player.text = text
    player.update(data, (marker) => setStateValue('marker', marker))
  } else player.paint() // the theme may have changed
  return () => setTimeout(() => root.isConnected || player.dispose()) // called for a mere change too
}
