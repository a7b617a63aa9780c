// What is trained, in one flat array, and where each tensor of the graph lies in it.
import { assert } from '../../compiler/errors.ts'
import type { Feeds } from '../../compiler/verify/session.ts'
import { trainingNames as names } from '../graph/names.ts'
import { drawFactors, type Factors, principalFactors } from '../lora/init.ts'
import type { TrainedModule } from '../lora/save.ts'
import type { LoraSpec } from '../lora/spec.ts'
import type { Group } from '../optimise/adamw.ts'

export interface Slot {
  readonly name: string
  readonly dims: readonly number[]
  readonly start: number
  readonly end: number
}

export class Parameters {
  readonly slots: readonly Slot[]
  readonly values: Float32Array

  /** `tensors`: in the order of the graph. */
  constructor(tensors: readonly { readonly name: string; readonly dims: readonly number[] }[]) {
    let end = 0
    this.slots = tensors.map(({ name, dims }) => {
      const start = end
      end += dims.reduce((product, dim) => product * dim, 1)
      return { name, dims, start, end }
    })
    this.values = new Float32Array(end)
  }

  of(name: string): Float32Array {
    const slot = this.slots.find((one) => one.name === name)
    assert(slot !== undefined, `${name} is not trained`)
    return this.values.subarray(slot.start, slot.end)
  }

  feeds(): Feeds {
    return Object.fromEntries(
      this.slots.map(({ name, dims, start, end }) => [name, { data: this.values.subarray(start, end), dims }]),
    )
  }
}

/** The trained tensors of LoRA, in the graph's order. */
export function loraParameters({ modules, dora }: LoraSpec): Parameters {
  return new Parameters(
    modules.flatMap(({ linear: { module, in: inSize, out }, r }) => [
      { name: names.loraA(module), dims: [inSize, r] },
      { name: names.loraB(module), dims: [r, out] },
      ...(dora ? [{ name: names.magnitude(module), dims: [out] }] : []),
    ]),
  )
}

/** LoRA+ (arXiv:2402.12354): B learns `ratio` times as fast as A. */
export function loraGroups({ slots }: Parameters, ratio: number): Group[] {
  return slots.map(({ name, start, end }) => ({ start, end, rate: name.endsWith('.lora_B') ? ratio : 1 }))
}

/**
 * Fills in what training begins with, except for magnitudes, which the graph gives. `readWeight`: W [out, in] of a module,
 * for PiSSA. Gives the constants that the graph reads beside.
 */
export async function initialise(
  spec: LoraSpec,
  parameters: Parameters,
  seed: number,
  readWeight: (module: string) => Promise<Float32Array>,
): Promise<ReadonlyMap<string, Factors>> {
  const starts = new Map<string, Factors>()
  for (const one of spec.modules) {
    const { module } = one.linear
    const factors = spec.init === 'pissa' ? principalFactors(one, await readWeight(module)) : drawFactors(one, seed)
    parameters.of(names.loraA(module)).set(factors.A)
    parameters.of(names.loraB(module)).set(factors.B)
    if (spec.init === 'pissa') starts.set(module, factors)
  }
  return starts
}

export function startFeeds({ modules }: LoraSpec, starts: ReadonlyMap<string, Factors>): Feeds {
  return Object.fromEntries(
    modules.flatMap(({ linear: { module, in: inSize, out }, r }) => {
      const start = starts.get(module)
      if (start === undefined) return []
      return [
        [names.startA(module), { data: start.A, dims: [inSize, r] }],
        [names.startB(module), { data: start.B, dims: [r, out] }],
      ]
    }),
  )
}

export function trainedModules(
  { modules, dora }: LoraSpec,
  parameters: Parameters,
  starts: ReadonlyMap<string, Factors>,
): Map<string, TrainedModule> {
  return new Map(
    modules.map(({ linear: { module } }) => {
      const start = starts.get(module)
      return [
        module,
        {
          A: parameters.of(names.loraA(module)),
          B: parameters.of(names.loraB(module)),
          ...(dora && { magnitude: parameters.of(names.magnitude(module)) }),
          ...(start && { start }),
        },
      ]
    }),
  )
}
