// What is trained: which linears get factors, of which rank and scale, and how the factors begin.
import type { Linear } from '../../compiler/contract.ts'

export const INITS = ['default', 'pissa'] as const
export type Init = (typeof INITS)[number]

export interface LoraModuleSpec {
  readonly linear: Linear
  readonly r: number
  /** s = lora_alpha / r, or lora_alpha / √r with rsLoRA. */
  readonly scaling: number
}

export interface LoraSpec {
  readonly modules: readonly LoraModuleSpec[]
  readonly init: Init
  readonly dora: boolean
  /** Share of a module's inputs that a step leaves out; 0 for none. */
  readonly dropout: number
}
