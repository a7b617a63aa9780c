// What a gradient rule is given, and what it gives.
import type { Node } from '../../compiler/onnx/model.ts'
import type { Shape } from './shapes.ts'
import type { GraphWriter } from './writer.ts'

/**
 * One node y = f(x₀, x₁, …), backwards. Rules are written in terms of dY = ∂L/∂y, and each gives ∂L/∂xᵢ. A gradient may
 * be smaller than its value where it is the same along an axis: it is repeated only where an operator needs it whole.
 */
export interface Backward {
  readonly w: GraphWriter
  readonly node: Node
  /** Name for a node of the rule. */
  at(part: string): string
  /** The input i; throws where the node lacks it. */
  x(i: number): string
  /** The output. */
  readonly y: string
  /** ∂L/∂y, perhaps smaller than y. */
  readonly dY: string
  /** ∂L/∂y in the shape of y. */
  whole(): string
  /** ∂L/∂ of output i, where anything reads it. */
  gradientOf(i: number): string | undefined
  /** Whether a trainable value reaches input i. */
  wants(i: number): boolean
  /** A value that is cheaper to compute again than to keep, computed again; any other as it is. */
  again(value: string): string
  shape(value: string): Shape
}

/** One gradient an input, in order; `undefined` where none is wanted. */
export type Rule = (backward: Backward) => readonly (string | undefined)[]

/** What an input of shape `to` gets of a gradient in the shape of the node's result: the sum over what was repeated. */
export function sumTo({ w, y, at }: Backward, gradient: string, to: Shape, part: string): string {
  const whole = w.shape(y)
  const from = w.shape(gradient)
  const offset = whole.length - to.length
  // A gradient that is smaller stands for as many equal numbers, of which each counts where there is a sum.
  const sums = whole.some(
    (dim, axis) =>
      dim !== 1 && (axis < offset || to[axis - offset] === 1) && from[axis - whole.length + from.length] !== dim,
  )
  return w.reduceTo(sums ? w.expand(gradient, whole, at(`${part}.whole`)) : gradient, to, at(part))
}
