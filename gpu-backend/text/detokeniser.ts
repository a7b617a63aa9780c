// Text from tokens as they come: only whole characters leave, and all of them together are the decoded sequence.

/** Some decoders strip the space of a first token, so a little of what came before is decoded along. */
const CONTEXT_TOKENS = 5
/** An unfinished UTF-8 character has at most 3 bytes, so at most 3 replacement characters can still turn into one. */
const MAX_UNFINISHED = 3
/** Tokens that never become text do not make the window grow without bound. */
const MAX_WINDOW_TOKENS = 64

const REPLACEMENT = '\uFFFD'

export class Detokeniser {
  readonly #decode: (ids: readonly number[]) => string
  /** `#context` tokens whose text has left, then tokens whose text has not, or not all. */
  #window: number[]
  #context: number
  #contextText: string
  /** Characters after the context that have left. */
  #sent = 0

  constructor(decode: (ids: readonly number[]) => string, promptIds: readonly number[]) {
    this.#decode = decode
    this.#window = promptIds.slice(-CONTEXT_TOKENS)
    this.#context = this.#window.length
    this.#contextText = decode(this.#window)
  }

  push(id: number): string {
    this.#window.push(id)
    const fresh = this.#decode(this.#window).slice(this.#contextText.length)
    let whole = fresh.length
    while (whole > 0 && fresh.length - whole < MAX_UNFINISHED && fresh[whole - 1] === REPLACEMENT) whole -= 1
    const text = fresh.slice(this.#sent, whole)
    this.#sent = Math.max(this.#sent, whole)
    if (whole === fresh.length || this.#window.length - this.#context > MAX_WINDOW_TOKENS) {
      const rest = fresh.slice(this.#sent)
      this.#window = this.#window.slice(this.#context)
      this.#context = this.#window.length
      this.#contextText = this.#decode(this.#window)
      this.#sent = 0
      return text + rest
    }
    return text
  }

  /** What is left when the sequence ends: an unfinished character, as a replacement character. */
  flush(): string {
    const fresh = this.#decode(this.#window).slice(this.#contextText.length)
    const text = fresh.slice(this.#sent)
    this.#sent = fresh.length
    return text
  }
}
