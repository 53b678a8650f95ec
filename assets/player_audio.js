// Sounds for player.js. They are decoded once and run in step through Web Audio; which
// of them is heard is a matter of gains alone, so that a switch leaves no gap.

export const RATE = 48000 // Hz: sounds are decoded to it and played at it
const FADE = 0.008 // s, of every start and stop, against clicks
const BUTTERWORTH = [-5.33, 2.32] // dB, qualities of two cascaded filters, together fourth order

const decoded = new Map() // address → promise of a sound, the newest eight
const running = new Set() // takes
export let speaker // the page's AudioContext, made when something is first played: a browser refuses it before

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high)

export function load(address) {
  if (!decoded.has(address)) {
    const sound = fetch(address).then(async (answer) => {
      if (!answer.ok) throw new Error(String(answer.status))
      return new OfflineAudioContext(1, 1, RATE).decodeAudioData(await answer.arrayBuffer())
    })
    sound.catch(() => decoded.delete(address))
    decoded.set(address, sound)
    if (decoded.size > 8) decoded.delete(decoded.keys().next().value)
  }
  return decoded.get(address)
}

// Sounds that run in step over one playhead. A take is one uninterrupted run; going elsewhere fades into a new one.
export class Deck {
  buffers = {}
  voices = {}
  at = 0 // s, where it stands while no take runs
  seconds = 0
  loop = null
  band = null
  speed = 1
  take = null

  constructor(gain, ended) {
    this.gain = gain // (name, microphone, ear) → factor
    this.ended = ended
  }

  put(name, buffer) {
    const length = Math.round(this.seconds * RATE)
    if (buffer.length !== length) {
      const fitted = new AudioBuffer({ length, numberOfChannels: buffer.numberOfChannels, sampleRate: RATE })
      for (let i = 0; i < buffer.numberOfChannels; i++)
        fitted.copyToChannel(buffer.getChannelData(i).subarray(0, length), i)
      buffer = fitted
    }
    this.buffers[name] = buffer
    if (this.take) this.join(name, speaker.currentTime + FADE)
  }

  get time() {
    return this.take ? this.place(speaker.currentTime - (speaker.outputLatency || 0)) : this.at
  }

  place(moment) {
    const { began, from, speed, loop } = this.take
    const t = from + Math.max(0, moment - began) * speed
    if (loop && t >= loop.stop) return loop.start + ((t - loop.start) % (loop.stop - loop.start))
    return Math.min(t, this.seconds)
  }

  start() {
    speaker ??= new AudioContext({ sampleRate: RATE })
    speaker.resume()
    if (!this.entry) this.connect()
    const { loop, speed } = this
    if (loop ? this.at < loop.start || this.at >= loop.stop : this.at > this.seconds - FADE) this.at = loop?.start ?? 0
    const began = speaker.currentTime + FADE
    this.take = { began, from: this.at, loop, speed, parts: [] }
    running.add(this.take)
    for (const name in this.buffers) this.join(name, began)
    this.mix()
  }

  stop() {
    if (!this.take) return
    this.at = this.time
    const now = speaker.currentTime
    for (const { source, envelope } of this.take.parts) {
      envelope.gain.cancelScheduledValues(now)
      envelope.gain.setValueAtTime(envelope.gain.value, now).linearRampToValueAtTime(0, now + FADE)
      source.stop(now + FADE)
    }
    this.drop()
  }

  drop() {
    running.delete(this.take)
    this.take = null
  }

  move(seconds) {
    const isPlaying = this.take
    this.stop()
    this.at = clamp(seconds, 0, this.seconds)
    if (isPlaying) this.start()
  }

  set(changes) {
    const here = this.take && this.place(speaker.currentTime)
    Object.assign(this, changes)
    if (this.take) this.move(here)
  }

  join(name, when) {
    const { take } = this
    const { loop, speed } = take
    const source = new AudioBufferSourceNode(speaker, { buffer: this.buffers[name], playbackRate: speed })
    if (loop) Object.assign(source, { loop: true, loopStart: loop.start, loopEnd: loop.stop })
    const envelope = new GainNode(speaker, { gain: 0 })
    envelope.gain.setValueAtTime(0, when).linearRampToValueAtTime(1, when + FADE)
    this.voices[name] ??= this.voice(name)
    source.connect(envelope).connect(this.voices[name].splitter)
    source.start(when, this.place(when))
    source.onended = () => {
      envelope.disconnect()
      if (take === this.take && name === 'clip') {
        this.at = this.seconds
        this.drop()
        this.ended()
      }
      if (!running.size) speaker.suspend() // a silent page costs nothing
    }
    take.parts.push({ source, envelope })
  }

  connect() {
    this.entry = new GainNode(speaker)
    this.filters = ['highpass', 'lowpass'].flatMap((type) =>
      BUTTERWORTH.map((Q) => new BiquadFilterNode(speaker, { type, Q })))
    this.analyser = new AnalyserNode(speaker, { fftSize: 4096, smoothingTimeConstant: 0 })
    ;[this.entry, ...this.filters, this.analyser, speaker.destination].reduce((from, to) => from.connect(to))
    this.tune(this.band)
  }

  // At 0 Hz a high-pass and at half the rate a low-pass let everything through unchanged.
  tune(band) {
    this.band = band
    this.filters?.forEach(({ type, frequency }) => {
      const wanted = type === 'highpass' ? (band?.low ?? 0) : Math.min(band?.high ?? RATE, RATE / 2)
      frequency.cancelScheduledValues(0)
      frequency.setValueAtTime(frequency.value, speaker.currentTime)
      frequency.linearRampToValueAtTime(wanted, speaker.currentTime + 2 * FADE)
    })
  }

  voice(name) {
    const splitter = new ChannelSplitterNode(speaker, { numberOfOutputs: 2 })
    const merger = new ChannelMergerNode(speaker, { numberOfInputs: 2 })
    const gains = [0, 1].map((from) => [0, 1].map((to) => {
      const gain = new GainNode(speaker, { gain: this.gain(name, from, to) })
      splitter.connect(gain, from).connect(merger, 0, to)
      return gain
    }))
    merger.connect(this.entry)
    return { splitter, gains }
  }

  mix() {
    for (const [name, { gains }] of Object.entries(this.voices))
      gains.forEach((ears, from) => ears.forEach(({ gain }, to) =>
        gain.setTargetAtTime(this.gain(name, from, to), speaker.currentTime, FADE / 3)))
  }

  // Of what is heard now: root mean square, or with a band the power between two frequencies.
  level(low, high) {
    if (!this.analyser) return 0
    const size = low === undefined ? this.analyser.fftSize : this.analyser.frequencyBinCount
    const values = new Float32Array(size)
    if (low === undefined) {
      this.analyser.getFloatTimeDomainData(values)
      return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / size)
    }
    this.analyser.getFloatFrequencyData(values)
    const bin = RATE / this.analyser.fftSize
    return values.slice(low / bin, high / bin).reduce((sum, value) => sum + 10 ** (value / 10), 0)
  }
}
