// What all patterns of one adapter may cost together: memory for their programs, time for their runs.
import { PatternError } from './pattern-error.ts'

/** A list of every module of a large model, spelled out in one pattern, takes some 50,000. */
const MAX_NODES = 200_000
/** Under a second. Fifty regexes on a thousand modules take half of it; keys that are only names take next to nothing. */
const MAX_STEPS = 25_000_000

/** The patterns took more steps than any honest adapter needs. */
export class BudgetError extends Error {
  override readonly name = 'BudgetError'

  constructor() {
    super(`more than ${MAX_STEPS} steps`)
  }
}

export class Budget {
  #nodes = MAX_NODES
  #steps = MAX_STEPS

  /** One part of a program. Throws `PatternError`. */
  spendNode(): void {
    this.#nodes -= 1
    if (this.#nodes < 0) throw new PatternError(`its repeats, spelled out, make more than ${MAX_NODES} parts`)
  }

  /** Throws `BudgetError`. */
  spend(steps: number): void {
    this.#steps -= steps
    if (this.#steps < 0) throw new BudgetError()
  }
}
