// What a family's file says: where its tensors are and what its config.json means.
import type { Layout, Traits } from '../decoder.ts'

/** Facts that every family's config.json gives, defaults filled in. */
export interface Facts {
  readonly layers: number
  readonly hiddenSize: number
  readonly headDim: number
}

/** Reads a key of config.json that only some families have. A wrong type is a problem of the config, by name. */
export interface Given {
  /** Above 0. */
  number(key: string): number | undefined
  /** An integer, at least 1 where nothing else is said. */
  count(key: string, least?: number): number | undefined
  boolean(key: string): boolean | undefined
  list(key: string): readonly unknown[] | undefined
}

export interface Family {
  readonly layout: Layout
  /** What the family's class in transformers takes for an absent key. */
  readonly defaults: Readonly<Record<string, unknown>>
  /** Other spellings of the common keys: theirs → ours. */
  readonly aliases?: Readonly<Record<string, string>>
  /** Values of the activation's key. */
  readonly activations: readonly string[]
  /** Keys that are refused unless a family honours them. */
  readonly honours: readonly string[]
  traits(given: Given, facts: Facts): Traits
}

export const SILU = ['silu', 'swish']
/** All linears of Llama's attention. */
export const ATTENTION = ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj']
export const MLP = ['mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj']

/** `biases`, where any of the pairs is switched on. */
export function biases(...groups: readonly (readonly [boolean | undefined, readonly string[]])[]): Traits {
  const found = groups.flatMap(([on, names]) => (on ? names : []))
  return found.length === 0 ? {} : { biases: found }
}

/** A window for the layers that `isSliding` says. */
export function windows(window: number | undefined, layers: number, isSliding: (layer: number) => boolean): Traits {
  if (window === undefined) return {}
  const found = Array.from({ length: layers }, (_, layer) => (isSliding(layer) ? window : null))
  return found.every((size) => size === null) ? {} : { windows: found }
}

/** By `layer_types` where the config has them. */
export function slidingBy(given: Given, otherwise: (layer: number) => boolean): (layer: number) => boolean {
  const types = given.list('layer_types')
  return types === undefined ? otherwise : (layer) => types[layer] === 'sliding_attention'
}
