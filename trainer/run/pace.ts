// How fast a run goes, and how long it still takes: means of its last steps.
import type { StepLine } from './metrics.ts'

/** Steps that the speed is a mean of. */
const WINDOW = 20

export class Pace {
  readonly #recent: { readonly tokens: number; readonly seconds: number }[] = []
  #before: number | undefined

  /** Whoever takes a run up again does not know what its first step had seen. */
  add({ step, tokens, seconds }: StepLine): void {
    if (step === 1) this.#before = 0
    if (this.#before !== undefined) this.#recent.push({ tokens: tokens - this.#before, seconds })
    if (this.#recent.length > WINDOW) this.#recent.shift()
    this.#before = tokens
  }

  get tokensPerSecond(): number {
    return this.#sum('tokens') / Math.max(this.#sum('seconds'), 1e-9)
  }

  secondsFor(steps: number): number {
    return (steps * this.#sum('seconds')) / Math.max(1, this.#recent.length)
  }

  #sum(what: 'tokens' | 'seconds'): number {
    return this.#recent.reduce((sum, one) => sum + one[what], 0)
  }
}

export function duration(seconds: number): string {
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  return whole < 3600
    ? `${Math.floor(whole / 60)} min ${whole % 60} s`
    : `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}
