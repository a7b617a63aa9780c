// What a verification found: figures, and a sentence for each that is out of bounds.
import type { Manifest } from '../contract.ts'
import { quote } from '../errors.ts'
import { boundsOf, type Scale, type Sized } from './bounds.ts'
import type { Difference, Tally } from './compare.ts'

export const VERIFICATION_SCHEMA = 'sidepath.verification/1'
/** Beside the manifest but not in it: figures depend on the machine, the artifact's bytes do not. */
export const VERIFICATION_FILE = 'verification.json'

/** Two forms of one model on one graph. */
export interface Comparison extends Difference {
  /** `base`, an adapter, or several with their weights. */
  readonly subject: string
  readonly form: string
  readonly against: string
  readonly graph: string
  readonly maxErrorBound: number
  readonly maxKlBound: number
  readonly ok: boolean
}

/** What an adapter does to the base. */
export interface Effect extends Difference {
  readonly subject: string
  /** `none`: bit for bit the base; `weak`: below what two correct forms may differ by. */
  readonly effect: 'clear' | 'weak' | 'none'
}

export interface Verification {
  readonly schema: typeof VERIFICATION_SCHEMA
  /** The id of the artifact. */
  readonly artifact: string
  readonly target: Manifest['target']
  readonly seed: number
  /** Tokens of each probe. */
  readonly probes: readonly number[]
  /** Files whose SHA-256 is that of the manifest. */
  readonly files: number
  readonly comparisons: readonly Comparison[]
  readonly effects: readonly Effect[]
  /** What could not be checked, and how it could be. */
  readonly notes: readonly string[]
  readonly problems: readonly string[]
  readonly ok: boolean
}

/** What is compared with what. */
export interface Names {
  readonly subject: string
  readonly form: string
  readonly against: string
  readonly graph: string
}

export type Size = Pick<Scale, 'rank' | 'change'>

export class Findings {
  readonly #manifest: Sized
  readonly #tokens: number
  readonly comparisons: Comparison[] = []
  readonly effects: Effect[] = []
  readonly notes: string[] = []
  readonly problems: string[] = []

  /** `tokens`: of the longest probe. */
  constructor(manifest: Sized, tokens: number) {
    this.#manifest = manifest
    this.#tokens = tokens
  }

  compared(names: Names, size: Size, tally: Tally): void {
    const found = tally.difference()
    const bounds = boundsOf(this.#manifest, { ...size, tokens: this.#tokens, magnitude: found.magnitude })
    const ok = found.maxError <= bounds.maxError && found.maxKl <= bounds.maxKl
    this.comparisons.push({ ...names, ...found, maxErrorBound: bounds.maxError, maxKlBound: bounds.maxKl, ok })
    if (ok) return
    const times = found.maxError / bounds.maxError
    this.problems.push(
      `${quote(names.subject)}: ${names.form} against ${names.against} on ${names.graph}: the largest error is ` +
        `${figure(found.maxError)}, ${figure(times)} times the bound of ${figure(bounds.maxError)} ` +
        `(KL ${figure(found.maxKl)}, bound ${figure(bounds.maxKl)}; same first token at ${percent(found.top1)})`,
    )
  }

  /** `tally`: the adapter's logits against the base's. */
  changed(subject: string, size: Size, tally: Tally): void {
    const found = tally.difference()
    const bound = boundsOf(this.#manifest, { ...size, tokens: this.#tokens, magnitude: found.magnitude }).maxError
    const effect = found.maxError === 0 ? 'none' : found.maxError <= bound ? 'weak' : 'clear'
    this.effects.push({ subject, ...found, effect })
    if (effect === 'none') {
      this.problems.push(
        `${quote(subject)}: its answers are the base's, bit for bit; the adapter does nothing, as before its training`,
      )
    } else if (effect === 'weak') {
      this.notes.push(
        `${quote(subject)} moves no logit by more than ${figure(found.maxError)}, which is within fp32's own error of ` +
          `${figure(bound)}; the comparison with the merged form says little`,
      )
    }
  }
}

const figure = (value: number) => value.toPrecision(3)
const percent = (share: number) => `${(share * 100).toFixed(1)} %`
