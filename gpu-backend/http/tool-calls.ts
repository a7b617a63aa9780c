// Tool calls in an answer, in the form that most templates teach: <tool_call>{"name": …, "arguments": {…}}</tool_call>.
import { randomUUID } from 'node:crypto'
import { z } from 'zod'

export interface ToolCall {
  readonly id: string
  readonly type: 'function'
  readonly function: { readonly name: string; readonly arguments: string }
}

export interface Read {
  readonly text: string
  readonly calls: readonly ToolCall[]
}

const OPEN = '<tool_call>'
const CLOSE = '</tool_call>'

const Call = z.object({ name: z.string(), arguments: z.record(z.string(), z.unknown()) })

/** What is no call of one of the functions stays text, as it came. */
export class ToolCalls {
  readonly #names: ReadonlySet<string>
  /** From the beginning of a possible mark on. */
  #held = ''

  constructor(names: Iterable<string>) {
    this.#names = new Set(names)
  }

  push(text: string): Read {
    this.#held += text
    const calls: ToolCall[] = []
    let out = ''
    for (;;) {
      const open = this.#held.indexOf(OPEN)
      if (open < 0) {
        const keep = beginningOf(OPEN, this.#held)
        out += this.#held.slice(0, this.#held.length - keep)
        this.#held = this.#held.slice(this.#held.length - keep)
        return { text: out, calls }
      }
      out += this.#held.slice(0, open)
      this.#held = this.#held.slice(open)
      const close = this.#held.indexOf(CLOSE)
      if (close < 0) return { text: out, calls }
      const call = this.#parse(this.#held.slice(OPEN.length, close))
      if (call === undefined) out += this.#held.slice(0, close + CLOSE.length)
      else calls.push(call)
      this.#held = this.#held.slice(close + CLOSE.length)
    }
  }

  /** The answer is over: a call that was not closed is one if it is whole. */
  end(): Read {
    const held = this.#held
    this.#held = ''
    const call = held.startsWith(OPEN) ? this.#parse(held.slice(OPEN.length)) : undefined
    return call === undefined ? { text: held, calls: [] } : { text: '', calls: [call] }
  }

  #parse(json: string): ToolCall | undefined {
    let value: unknown
    try {
      value = JSON.parse(json)
    } catch {
      return undefined
    }
    const parsed = Call.safeParse(value)
    if (!parsed.success || !this.#names.has(parsed.data.name)) return undefined
    const call = { name: parsed.data.name, arguments: JSON.stringify(parsed.data.arguments) }
    return { id: `call_${randomUUID().replaceAll('-', '')}`, type: 'function', function: call }
  }
}

/** Length of the longest end of `text` with which `mark` begins. */
function beginningOf(mark: string, text: string): number {
  for (let length = Math.min(mark.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(mark.slice(0, length))) return length
  }
  return 0
}
