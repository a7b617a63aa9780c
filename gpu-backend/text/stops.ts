// Stop strings: found across the borders of tokens, and never emitted, not even their beginning.

export interface Matched {
  /** Text that can be sent: no stop string begins in it. */
  readonly text: string
  readonly stopped: boolean
}

/** The string whose end comes first ends the text (of two with one end, the longer): token borders make no difference. */
export class StopMatcher {
  readonly #stops: readonly string[]
  #held = ''

  constructor(stops: readonly string[]) {
    this.#stops = stops
  }

  push(text: string): Matched {
    const all = this.#held + text
    let end = Number.POSITIVE_INFINITY
    let start = 0
    for (const stop of this.#stops) {
      const at = all.indexOf(stop)
      if (at < 0) continue
      if (at + stop.length < end || (at + stop.length === end && at < start)) {
        start = at
        end = at + stop.length
      }
    }
    if (end !== Number.POSITIVE_INFINITY) {
      this.#held = ''
      return { text: all.slice(0, start), stopped: true }
    }
    const keep = Math.max(0, ...this.#stops.map((stop) => overlap(all, stop)))
    this.#held = all.slice(all.length - keep)
    return { text: all.slice(0, all.length - keep), stopped: false }
  }

  /** What was held back, once no more text comes. */
  flush(): string {
    const held = this.#held
    this.#held = ''
    return held
  }
}

/** Length of the longest end of `text` that is a proper beginning of `stop`. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--) {
    if (text.endsWith(stop.slice(0, length))) return length
  }
  return 0
}
