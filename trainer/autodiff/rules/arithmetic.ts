// Gradients of + − · / and powers.
//
//   y = a + b        da = dY                db = dY
//   y = a − b        da = dY                db = −dY
//   y = a · b        da = dY·b              db = dY·a
//   y = a / b        da = dY/b              db = −Σ(dY·y)/b
//   y = −x           dx = −dY
//   y = √x           dx = dY·½/y
//   y = xᵖ           dx = (dY·p)·xᵖ⁻¹       p a constant
//   y = 1/x          dx = −dY·y²
//   y = eˣ           dx = dY·y
//   y = ln x         dx = dY/x
//
// each summed over the axes along which its operand was repeated (`sumTo`). Of a quotient the sum is taken before the
// division: b does not change along the axes that are summed.
import { assert } from '../../../compiler/errors.ts'
import { type Backward, type Rule, sumTo } from '../rule.ts'

const sum = (of: Backward, i: number, gradient: string) => sumTo(of, gradient, of.shape(of.x(i)), `sum.${i}`)

const add: Rule = (of) => [0, 1].map((i) => (of.wants(i) ? sum(of, i, of.dY) : undefined))

const sub: Rule = (of) => {
  const { w, dY, wants, at } = of
  return [wants(0) ? sum(of, 0, dY) : undefined, wants(1) ? w.node('Neg', at('minus'), [sum(of, 1, dY)]) : undefined]
}

const mul: Rule = (of) => {
  const { w, dY, wants, at, x, again } = of
  return [0, 1].map((i) => (wants(i) ? sum(of, i, w.node('Mul', at(`d${i}`), [dY, again(x(1 - i))])) : undefined))
}

const div: Rule = (of) => {
  const { w, dY, y, wants, at, x } = of
  const top = wants(0) ? sum(of, 0, w.node('Div', at('d0'), [dY, x(1)])) : undefined
  if (!wants(1)) return [top, undefined]
  const summed = sum(of, 1, w.node('Mul', at('dy_y'), [dY, y]))
  return [top, w.node('Neg', at('d1'), [w.node('Div', at('over'), [summed, x(1)])])]
}

const neg: Rule = ({ w, dY, at }) => [w.node('Neg', at('d'), [dY])]

const sqrt: Rule = ({ w, dY, y, at }) => [w.node('Div', at('d'), [w.node('Mul', at('half'), [dY, w.float(0.5)]), y])]

const pow: Rule = ({ w, dY, at, x, wants }) => {
  const power = w.constantFloat(x(1))
  assert(power !== undefined && !wants(1), `${x(1)} is no constant: only constant powers have a gradient here`)
  const scaled = w.node('Mul', at('p'), [dY, w.float(power)])
  const rest = power === 2 ? x(0) : w.node('Pow', at('rest'), [x(0), w.float(power - 1)])
  return [w.node('Mul', at('d'), [scaled, rest]), undefined]
}

const reciprocal: Rule = ({ w, dY, y, at }) => {
  const squared = w.node('Mul', at('y_y'), [y, y])
  return [w.node('Neg', at('d'), [w.node('Mul', at('dy_y_y'), [dY, squared])])]
}

const exp: Rule = ({ w, dY, y, at }) => [w.node('Mul', at('d'), [dY, y])]
const log: Rule = ({ w, dY, at, x }) => [w.node('Div', at('d'), [dY, x(0)])]

export const ARITHMETIC: Readonly<Record<string, Rule>> = {
  Add: add,
  Sub: sub,
  Mul: mul,
  Div: div,
  Neg: neg,
  Sqrt: sqrt,
  Pow: pow,
  Reciprocal: reciprocal,
  Exp: exp,
  Log: log,
}
