// Gradients of what is taken over an axis.
//
//   y = softmax(x)       dx = (dY − Σ dY·y)·y
//   y = log softmax(x)   dx = dY − eʸ·Σ dY
//   y = mean(x)          dx = dY/n, the same along the axis
//   y = Σ x              dx = dY
//   y = w·x̂ + b, x̂ = (x − mean(x))·i, i = 1/√(var(x) + ε)
//                        g = dY·w,  dx = i·(g − mean(g) − x̂·mean(g·x̂)),  dw = Σ dY·x̂,  db = Σ dY
//
// RMS norms are written in simpler operators (compiler/graph/norm.ts) and need no rule of their own.
import { assert } from '../../../compiler/errors.ts'
import { type Backward, type Rule, sumTo } from '../rule.ts'

const softmax: Rule = ({ w, whole, y, at, node }) => {
  requireLast(node.attributes.axis, node.name)
  const dY = whole()
  const products = w.node('Mul', at('dy_y'), [dY, y])
  const sum = w.node('ReduceSum', at('sum'), [products, w.ints(-1)], { keepdims: 1 })
  return [w.node('Mul', at('d'), [w.node('Sub', at('centred'), [dY, sum]), y])]
}

const logSoftmax: Rule = ({ w, whole, y, at, node }) => {
  requireLast(node.attributes.axis, node.name)
  const dY = whole()
  const sum = w.node('ReduceSum', at('sum'), [dY, w.ints(-1)], { keepdims: 1 })
  return [w.node('Sub', at('d'), [dY, w.node('Mul', at('share'), [w.node('Exp', at('exp'), [y]), sum])])]
}

function requireLast(axis: unknown, name: string): void {
  assert(axis === -1, `${name} is not over the last axis`)
}

const reduceMean: Rule = (of) => {
  const { w, dY, at, x, shape } = of
  const [before, after] = [shape(x(0)), shape(of.y)]
  const axes = axesOf(of)
  let count = 1
  for (const axis of axes) {
    const dim = before[axis]
    assert(typeof dim === 'number', `${of.node.name} is a mean over a length that only the run knows`)
    count *= dim
  }
  assert(before.length === after.length, `${of.node.name} drops its axes`)
  return [w.node('Mul', at('d'), [dY, w.float(1 / count)]), undefined]
}

const reduceSum: Rule = (of) => {
  const { w, at, x, shape } = of
  const before = shape(x(0))
  if (before.length === shape(of.y).length) return [of.dY, undefined]
  const axes = axesOf(of)
  return [
    w.reshape(
      of.whole(),
      before.map((dim, axis) => (axes.includes(axis) ? 1 : dim)),
      at('d'),
    ),
    undefined,
  ]
}

function axesOf({ w, node, x, shape }: Backward): readonly number[] {
  const rank = shape(x(0)).length
  const given = node.inputs[1] === undefined ? undefined : w.constantInts(node.inputs[1])
  return (given ?? Array.from({ length: rank }, (_, axis) => axis)).map((axis) => (axis < 0 ? axis + rank : axis))
}

const layerNormalization: Rule = (of) => {
  const { w, whole, at, x, wants, node } = of
  requireLast(node.attributes.axis, node.name)
  const { epsilon } = node.attributes
  assert(typeof epsilon === 'object' && 'float' in epsilon, `${node.name} has no epsilon`)
  const times = (part: string, a: string, b: string) => w.node('Mul', at(part), [a, b])
  const minus = (part: string, a: string, b: string) => w.node('Sub', at(part), [a, b])
  const mean = (part: string, value: string) => w.node('ReduceMean', at(part), [value, w.ints(-1)], { keepdims: 1 })
  const dY = whole()
  const centred = minus('centred', x(0), mean('mean', x(0)))
  const variance = mean('variance', times('squared', centred, centred))
  const root = w.node('Sqrt', at('root'), [w.node('Add', at('shifted'), [variance, w.float(epsilon.float)])])
  const unit = w.node('Div', at('unit'), [centred, root])
  const results: (string | undefined)[] = [undefined, undefined, undefined]
  if (wants(0)) {
    const g = times('g', dY, x(1))
    const flat = minus('flat', g, mean('g.mean', g))
    const inner = minus('inner', flat, times('along', unit, mean('g_unit.mean', times('g_unit', g, unit))))
    results[0] = w.node('Div', at('d'), [inner, root])
  }
  if (wants(1)) results[1] = sumTo(of, times('dy_unit', dY, unit), of.shape(x(1)), 'dw')
  if (wants(2)) results[2] = sumTo(of, dY, of.shape(x(2)), 'db')
  return results
}

export const NORMS: Readonly<Record<string, Rule>> = {
  Softmax: softmax,
  LogSoftmax: logSoftmax,
  ReduceMean: reduceMean,
  ReduceSum: reduceSum,
  LayerNormalization: layerNormalization,
}
