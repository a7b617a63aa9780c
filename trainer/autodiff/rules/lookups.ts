// Gradients of what picks numbers by index: they are added where they came from, as often as they were picked.
//
//   y = x[i]         dX = 0, then dX[i] += dY for each i
import { assert } from '../../../compiler/errors.ts'
import type { Rule } from '../rule.ts'

const ADD = { reduction: { string: 'add' } } as const

const gather: Rule = ({ w, whole, at, node, x, shape }) => {
  assert((node.attributes.axis ?? 0) === 0, `${node.name} does not pick along the first axis`)
  const zeros = w.zeros(shape(x(0)), at('zeros'))
  const rows = w.node('Unsqueeze', at('rows'), [x(1), w.ints(-1)])
  return [w.node('ScatterND', at('d'), [zeros, rows, whole()], ADD), undefined]
}

const gatherND: Rule = ({ w, whole, at, x, shape }) => [
  w.node('ScatterND', at('d'), [w.zeros(shape(x(0)), at('zeros')), x(1), whole()], ADD),
  undefined,
]

const gatherElements: Rule = ({ w, whole, at, node, x, shape }) => [
  w.node('ScatterElements', at('d'), [w.zeros(shape(x(0)), at('zeros')), x(1), whole()], {
    axis: node.attributes.axis ?? 0,
    ...ADD,
  }),
  undefined,
]

export const LOOKUPS: Readonly<Record<string, Rule>> = {
  Gather: gather,
  GatherND: gatherND,
  GatherElements: gatherElements,
}
