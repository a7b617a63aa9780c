// Reverse mode over a graph: from ∂L/∂y to ∂L/∂x, only along paths that reach a trainable value.
import { assert } from '../../compiler/errors.ts'
import type { Node } from '../../compiler/onnx/model.ts'
import type { Backward, Rule } from './rule.ts'
import { ACTIVATIONS } from './rules/activations.ts'
import { ARITHMETIC } from './rules/arithmetic.ts'
import { LAYOUT } from './rules/layout.ts'
import { LOOKUPS } from './rules/lookups.ts'
import { NORMS } from './rules/norms.ts'
import { PRODUCTS } from './rules/products.ts'
import type { GraphWriter } from './writer.ts'

/** Operators that have a gradient. */
export const RULES: Readonly<Record<string, Rule>> = {
  ...ARITHMETIC,
  ...ACTIVATIONS,
  ...PRODUCTS,
  ...NORMS,
  ...LAYOUT,
  ...LOOKUPS,
}

/** What these give says of their inputs no more than a whole number or a truth: no gradient passes. */
const WHOLE: ReadonlySet<string> = new Set([
  'And',
  'Equal',
  'Greater',
  'GreaterOrEqual',
  'Less',
  'LessOrEqual',
  'Or',
  'Range',
  'Shape',
  'Size',
])

/** Values that a trainable value reaches. `fixed`: values that count as constants, whatever they are computed from. */
export function reachedFrom(
  nodes: readonly Node[],
  trainable: Iterable<string>,
  fixed: ReadonlySet<string> = new Set(),
): Set<string> {
  const reached = new Set(trainable)
  for (const { op, inputs, outputs } of nodes) {
    if (WHOLE.has(op) || !inputs.some((input) => reached.has(input))) continue
    for (const output of outputs) if (!fixed.has(output)) reached.add(output)
  }
  return reached
}

export interface Differentiation {
  readonly w: GraphWriter
  /** In topological order; a part of a graph, or all of it. */
  readonly nodes: readonly Node[]
  /** Values whose gradient is wanted: what `reachedFrom` gives, by the names that `nodes` use. */
  readonly reached: ReadonlySet<string>
  /** ∂L/∂ of values; those of `nodes`' outputs go in, those of their inputs come out. */
  readonly gradients: Map<string, string>
  /** Values that are computed again where a gradient needs them, by name. `after`: not before this value is there. */
  readonly again?: ReadonlyMap<string, (after: string) => string>
}

/**
 * Adds the nodes that compute the gradients of `nodes`' inputs. No gradient of a weight is ever a node: weights are no
 * inputs of the graph, so nothing reaches them.
 */
export function differentiate({ w, nodes, reached, gradients, again }: Differentiation): void {
  for (const node of nodes.toReversed()) {
    const y = node.outputs.find((output) => gradients.has(output))
    if (y === undefined || !node.inputs.some((input) => reached.has(input))) continue
    const rule = RULES[node.op]
    assert(rule !== undefined, `${node.op} (${node.name}) has no gradient`)
    const found = rule(backwardOf(node, y, { w, reached, gradients, ...(again && { again }) }))
    node.inputs.forEach((input, i) => {
      const gradient = found[i]
      if (gradient === undefined || !reached.has(input)) return
      assert(!w.isWeight(input), `a gradient of the frozen weight ${input} was computed`)
      const before = gradients.get(input)
      gradients.set(input, before === undefined ? gradient : w.node('Add', `grad/${input}/sum`, [before, gradient]))
    })
  }
}

function backwardOf(node: Node, y: string, of: Omit<Differentiation, 'nodes'>): Backward {
  const { w, reached, gradients, again } = of
  const dY = gradients.get(y) as string
  const at = (part: string) => `grad/${node.name}/${part}`
  const x = (i: number) => {
    const input = node.inputs[i]
    assert(input !== undefined, `${node.name} has no input ${i}`)
    return input
  }
  return {
    w,
    node,
    at,
    x,
    y,
    dY,
    whole: () => w.expand(dY, w.shape(y), at('whole')),
    gradientOf: (i) => gradients.get(node.outputs[i] as string),
    wants: (i) => reached.has(node.inputs[i] ?? ''),
    again: (value) => again?.get(value)?.(dY) ?? value,
    shape: (value) => w.shape(value),
  }
}
