// Runs a pattern without backtracking: all states at once, one character at a time, so that no pattern of an untrusted
// file can take more than (states × characters) steps; look-ahead multiplies that once by the characters, and memory of
// its answers keeps it there. A budget of steps bounds the sum over all patterns and all module names.
import { assert } from '../../errors.ts'
import type { Budget } from './budget.ts'
import { isWordChar } from './chars.ts'
import type { Place } from './parse.ts'
import type { Program } from './program.ts'

/** `re.fullmatch`. Throws `BudgetError`. */
export function fullMatch(program: Program, text: string, budget: Budget): boolean {
  return new Run(program, text, budget).from(program.start, 0, true)
}

/** `re.match`: a match that starts at the first character and ends anywhere. Throws `BudgetError`. */
export function prefixMatch(program: Program, text: string, budget: Budget): boolean {
  return new Run(program, text, budget).from(program.start, 0, false)
}

class Run {
  readonly #states: Program['states']
  readonly #text: readonly number[]
  readonly #budget: Budget
  /** Answers of look-aheads, by state and place. */
  readonly #aheads = new Map<number, boolean>()

  constructor({ states }: Program, text: string, budget: Budget) {
    this.#states = states
    this.#text = Array.from(text, (char) => char.codePointAt(0) as number)
    this.#budget = budget
  }

  from(start: number, from: number, toTheEnd: boolean): boolean {
    // The place at which a state was last entered, so that each is entered once.
    const seen = new Int32Array(this.#states.length).fill(-1)
    this.#budget.spend(1 + seen.length / 64)
    let waiting: number[] = []
    let entering = [start]
    for (let at = from; ; at += 1) {
      const matched = this.#enter(entering, waiting, seen, at)
      if (matched && (!toTheEnd || at === this.#text.length)) return true
      const code = this.#text[at]
      if (code === undefined || waiting.length === 0) return false
      entering = []
      this.#budget.spend(waiting.length)
      for (const index of waiting) {
        const state = this.#states[index]
        assert(state?.op === 'char', 'only states that wait for a character wait')
        if (state.test(code)) entering.push(state.next)
      }
      waiting = []
    }
  }

  /** Follows empty moves. Adds to `waiting` the states that want a character; true where the end was reached. */
  #enter(entering: number[], waiting: number[], seen: Int32Array, at: number): boolean {
    let matched = false
    while (entering.length > 0) {
      const index = entering.pop() as number
      if (seen[index] === at) continue
      seen[index] = at
      this.#budget.spend(1)
      const state = this.#states[index]
      assert(state !== undefined, `no state ${index}`)
      if (state.op === 'char') waiting.push(index)
      else if (state.op === 'match') matched = true
      else if (state.op === 'split') {
        this.#budget.spend(state.to.length)
        for (const to of state.to) entering.push(to)
      } else if (state.op === 'place') {
        if (this.#isAt(state.place, at)) entering.push(state.next)
      } else if (this.#ahead(index, state.start, at) !== state.negated) entering.push(state.next)
    }
    return matched
  }

  #ahead(index: number, start: number, at: number): boolean {
    const key = index * (this.#text.length + 1) + at
    const known = this.#aheads.get(key)
    if (known !== undefined) return known
    const answer = this.from(start, at, false)
    this.#aheads.set(key, answer)
    return answer
  }

  #isAt(place: Place, at: number): boolean {
    const { length } = this.#text
    if (place === 'start') return at === 0
    if (place === 'very-end') return at === length
    // "$" also matches before a line feed that ends the text.
    if (place === 'end') return at === length || (at === length - 1 && this.#text[at] === 0x0a)
    // An empty text has neither, in Python before 3.14.
    if (length === 0) return false
    const isBoundary = isWordChar(this.#text[at - 1]) !== isWordChar(this.#text[at])
    return isBoundary === (place === 'boundary')
  }
}
