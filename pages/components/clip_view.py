"""One clip to look at and to listen to: near and far microphone stacked over one time axis.

The elements are the browser's own (`img`, `audio`); the script only lays them out, moves a cursor with the sound
and sees to it that one channel plays at a time. Text reaches the page as text, never as markup.
"""

from __future__ import annotations

import streamlit as st

from asd_core import api
from pages.components import pictures
from pages.components.context import workspace

CSS = """
.channel { margin: 0 0 0.9rem; }
.head { display: flex; align-items: center; gap: 0.75rem; margin-bottom: 0.3rem; font-weight: 600; }
.head span { flex: none; width: 3rem; }
audio { flex: 1; min-width: 0; height: 2.25rem; }
.plot { display: grid; grid-template-columns: 3.2rem 1fr 4.2rem; font-size: 0.75rem; color: var(--st-text-color); }
.hertz, .decibel { position: relative; height: 10.5rem; }
.hertz span, .decibel span { position: absolute; transform: translateY(50%); white-space: nowrap; opacity: 0.85; }
.hertz span { right: 0.4rem; }
.frame { position: relative; height: 10.5rem; background: #000; border-radius: 3px; overflow: hidden; cursor: pointer; }
.frame img { width: 100%; height: 100%; display: block; }
.cursor { position: absolute; top: 0; bottom: 0; width: 2px; background: #fff; opacity: 0; pointer-events: none; }
.decibel i { position: absolute; left: 0.6rem; width: 0.7rem; top: 0; bottom: 0; border-radius: 2px; }
.decibel span { left: 1.6rem; }
.seconds { grid-column: 2; position: relative; height: 1.2rem; }
.seconds span { position: absolute; transform: translateX(-50%); opacity: 0.85; top: 0.15rem; white-space: nowrap; }
.none { opacity: 0.75; font-size: 0.875rem; }
"""

JS = """
const add = (parent, tag, properties = {}) => parent.appendChild(Object.assign(document.createElement(tag), properties))

const step = (seconds) => [0.1, 0.2, 0.5, 1, 2, 5, 10].find((s) => seconds / s <= 6) ?? 30

function draw(root, data) {
  const players = []
  for (const channel of data.channels) {
    const box = add(root, 'section', { className: 'channel' })
    const head = add(box, 'div', { className: 'head' })
    add(head, 'span', { textContent: channel.name })
    if (!channel.sound) {
      add(head, 'div', { className: 'none', textContent: channel.reason })
      continue
    }
    const audio = add(head, 'audio', { controls: true, preload: 'metadata', src: channel.sound })
    audio.setAttribute('aria-label', `Sound of the ${channel.name.toLowerCase()} microphone`)
    players.push(audio)
    const plot = add(box, 'div', { className: 'plot' })
    const hertz = add(plot, 'div', { className: 'hertz' })
    for (const [place, label] of data.ticks)
      add(hertz, 'span', { textContent: label }).style.bottom = `${Math.min(place, 0.97) * 100}%`
    const frame = add(plot, 'div', { className: 'frame' })
    add(frame, 'img', { src: channel.picture, alt: channel.alt })
    const cursor = add(frame, 'div', { className: 'cursor' })
    const scale = add(plot, 'div', { className: 'decibel' })
    add(scale, 'i').style.background = `linear-gradient(to top, ${data.colours.join(',')})`
    for (const part of [0, 0.5, 1])
      add(scale, 'span', { textContent: `${Math.round(data.low + (data.high - data.low) * part)} dB` }).style.bottom =
        `${Math.min(Math.max(part, 0.05), 0.95) * 100}%`
    const seconds = add(plot, 'div', { className: 'seconds' })
    for (let t = 0; t <= data.seconds; t += step(data.seconds))
      add(seconds, 'span', { textContent: `${+t.toFixed(1)} s` }).style.left = `${(100 * t) / data.seconds}%`
    const follow = () => {
      cursor.style.opacity = audio.currentTime > 0 ? 0.9 : 0
      cursor.style.left = `${(100 * audio.currentTime) / data.seconds}%`
      if (!audio.paused) requestAnimationFrame(follow)
    }
    audio.onplay = () => {
      players.filter((other) => other !== audio).forEach((other) => other.pause())
      follow()
    }
    audio.ontimeupdate = follow
    frame.onclick = (event) => {
      const area = frame.getBoundingClientRect()
      audio.currentTime = (data.seconds * (event.clientX - area.left)) / area.width
    }
  }
  return players
}

const shown = new WeakMap()

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector('.clip')
  const text = JSON.stringify(data)
  if (shown.get(root)?.text !== text) {
    shown.get(root)?.players.forEach((player) => player.pause())
    root.replaceChildren()
    shown.set(root, { text, players: draw(root, data) })
  }
  return () => shown.get(root)?.players.forEach((player) => player.pause())
}
"""

_view = st.components.v2.component("asd_clip_view", html='<div class="clip"></div>', css=CSS, js=JS)


def show(data: str, clip_id: str, axis: api.Axis) -> api.ClipFacts:
    """Draw both channels and return the file's facts.

    Raises:
        AsdError: the file is missing or cannot be read.
    """
    facts = api.clip_facts(workspace(), data, clip_id)
    version = api.picture_key(workspace(), data, clip_id)
    channels = []
    for number, channel in enumerate(api.CHANNELS):
        entry = {"name": channel.capitalize(), "reason": "This file has one channel only."}
        if number < facts.channels:
            entry["sound"] = pictures.sound_url(data, clip_id, channel, version)
            entry["picture"] = pictures.picture_url(data, clip_id, f"{channel}-{axis}", version)
            entry["alt"] = f"Spectrogram of the {channel} microphone, {facts.seconds:.1f} s, {axis} frequency axis"
        channels.append(entry)
    low, high = api.loudness_scale(workspace(), data, api.clip(workspace(), data, clip_id).machine)
    _view(
        key="clip_view",
        data={
            "channels": channels,
            "ticks": api.ticks(axis),
            "seconds": facts.seconds,
            "low": low,
            "high": high,
            "colours": pictures.colour_bar(),
        },
    )
    return facts
