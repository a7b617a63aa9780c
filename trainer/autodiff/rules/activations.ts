// Gradients of the activations.
//
//   y = σ(x)         dx = dY·y·(1 − y)
//   y = tanh x       dx = dY·(1 − y²)
//   y = erf x        dx = dY·2/√π·e^(−x²)
//   y = gelu(x), by tanh: u = √(2/π)·(x + κx³), κ = 0.044715, t = tanh u
//                    dx = dY·(½(1 + t) + ½·x·(1 − t²)·√(2/π)·(1 + 3κx²))
//   y = x·Φ(x)       dx = dY·(Φ(x) + x·φ(x)),  Φ(x) = ½(1 + erf(x/√2)),  φ(x) = e^(−x²/2)/√(2π)
import type { Rule } from '../rule.ts'

const CUBE = 0.044715
const ROOT = Math.sqrt(2 / Math.PI)

const sigmoid: Rule = ({ w, dY, y, at }) => {
  const rest = w.node('Sub', at('rest'), [w.float(1), y])
  return [w.node('Mul', at('d'), [dY, w.node('Mul', at('slope'), [y, rest])])]
}

const tanh: Rule = ({ w, dY, y, at }) => {
  const slope = w.node('Sub', at('slope'), [w.float(1), w.node('Mul', at('squared'), [y, y])])
  return [w.node('Mul', at('d'), [dY, slope])]
}

const erf: Rule = ({ w, dY, at, x }) => {
  const minus = w.node('Neg', at('minus'), [w.node('Mul', at('squared'), [x(0), x(0)])])
  const bell = w.node('Mul', at('bell'), [w.node('Exp', at('exp'), [minus]), w.float(2 / Math.sqrt(Math.PI))])
  return [w.node('Mul', at('d'), [dY, bell])]
}

const gelu: Rule = (of) => {
  const { w, node, dY, at } = of
  const slope = isTanh(node.attributes.approximate) ? tanhSlope(of) : exactSlope(of)
  return [w.node('Mul', at('d'), [dY, slope])]
}

const isTanh = (attribute: unknown) =>
  typeof attribute === 'object' && attribute !== null && 'string' in attribute && attribute.string === 'tanh'

const tanhSlope: (of: Parameters<Rule>[0]) => string = ({ w, at, x }) => {
  const times = (part: string, a: string, b: string) => w.node('Mul', at(part), [a, b])
  const plus = (part: string, a: string, b: string) => w.node('Add', at(part), [a, b])
  const squared = times('squared', x(0), x(0))
  const inner = plus('inner', times('cubic', squared, w.float(CUBE)), w.float(1))
  const u = times('u', times('scaled', x(0), w.float(ROOT)), inner)
  const t = w.node('Tanh', at('t'), [u])
  const flat = w.node('Sub', at('flat'), [w.float(1), times('t_t', t, t)])
  const steep = plus('steep', times('three', squared, w.float(3 * CUBE * ROOT)), w.float(ROOT))
  const bend = times('bend', times('x_flat', x(0), flat), steep)
  return times('slope', plus('both', plus('one_t', t, w.float(1)), bend), w.float(0.5))
}

const exactSlope: (of: Parameters<Rule>[0]) => string = ({ w, at, x }) => {
  const times = (part: string, a: string, b: string) => w.node('Mul', at(part), [a, b])
  const e = w.node('Erf', at('erf'), [times('scaled', x(0), w.float(Math.SQRT1_2))])
  const below = w.node('Add', at('below'), [times('half', e, w.float(0.5)), w.float(0.5)])
  const minus = times('minus', times('squared', x(0), x(0)), w.float(-0.5))
  const bell = times('bell', w.node('Exp', at('exp'), [minus]), w.float(1 / Math.sqrt(2 * Math.PI)))
  return w.node('Add', at('slope'), [below, times('x_bell', x(0), bell)])
}

export const ACTIVATIONS: Readonly<Record<string, Rule>> = { Sigmoid: sigmoid, Tanh: tanh, Erf: erf, Gelu: gelu }
