// One step: gradients of one or several micro-batches, summed, clipped, and AdamW. The graph's gradients come back by name.
import { assert } from '../../compiler/errors.ts'
import type { Feeds, GraphSession } from '../../compiler/verify/session.ts'
import { trainingNames as names } from '../graph/names.ts'
import { type AdamOptions, clipGradient, type Group, type Moments, stepAdamW } from '../optimise/adamw.ts'
import type { Parameters } from './parameters.ts'

export interface StepOptions {
  readonly learningRate: number
  readonly maxGradNorm: number | undefined
  readonly adam: AdamOptions
}

export interface StepResult {
  /** Mean over the targets of all micro-batches, where their weights sum to 1. */
  readonly loss: number
  /** Before it was clipped. */
  readonly gradientNorm: number
}

export class Learner {
  readonly #session: GraphSession
  readonly #parameters: Parameters
  readonly #groups: readonly Group[]
  readonly #outputs: readonly string[]
  readonly #gradient: Float32Array
  readonly moments: Moments
  /** Updates so far. */
  step = 0

  constructor(session: GraphSession, parameters: Parameters, groups: readonly Group[]) {
    this.#session = session
    this.#parameters = parameters
    this.#groups = groups
    this.#outputs = [names.loss, ...parameters.slots.map(({ name }) => names.gradient(name))]
    this.#gradient = new Float32Array(parameters.values.length)
    this.moments = {
      parameters: parameters.values,
      first: new Float32Array(parameters.values.length),
      second: new Float32Array(parameters.values.length),
    }
  }

  /** `batches`: feeds without the parameters; made one after the other, so that only one is held. */
  async learn(batches: Iterable<Feeds>, { learningRate, maxGradNorm, adam }: StepOptions): Promise<StepResult> {
    const { slots } = this.#parameters
    this.#gradient.fill(0)
    let loss = 0
    for (const feeds of batches) {
      const results = await this.#session.run({ ...this.#parameters.feeds(), ...feeds }, this.#outputs)
      loss += results[names.loss]?.data[0] as number
      for (const { name, start } of slots) {
        const found = results[names.gradient(name)]?.data
        assert(found instanceof Float32Array, `the graph gave no gradient of ${name}`)
        for (let i = 0; i < found.length; i += 1) {
          this.#gradient[start + i] = (this.#gradient[start + i] as number) + (found[i] as number)
        }
      }
    }
    const gradientNorm = clipGradient(this.#gradient, maxGradNorm)
    if (Number.isFinite(loss) && Number.isFinite(gradientNorm)) {
      this.step += 1
      stepAdamW(this.moments, this.#gradient, this.#groups, learningRate, this.step, adam)
    }
    return { loss, gradientNorm }
  }
}
