// Gradients of matrix products.
//
//   Y = A·B          dA = dY·Bᵀ             dB = Aᵀ·dY
//   Y = A·Bᵀ         dA = dY·B              dB = dYᵀ·A
//
// Where B is one matrix for all rows, the rows of A are one matrix too, and Gemm reads B as it is stored: no transposed
// copy of a frozen weight is made. A weight that is unpacked for each use is unpacked again rather than kept.
import { assert } from '../../../compiler/errors.ts'
import type { Backward, Rule } from '../rule.ts'

const matMul: Rule = (of) => {
  const { w, wants, at, x, shape } = of
  const [a, b] = [x(0), x(1)]
  if (shape(b).length === 2) return byOneMatrix(of, a, b)
  const dY = of.whole()
  const turn = (value: string, part: string) => {
    const rank = shape(value).length
    const perm = Array.from({ length: rank }, (_, axis) => (axis < rank - 2 ? axis : 2 * rank - 3 - axis))
    return w.node('Transpose', at(part), [value], { perm })
  }
  const dA = wants(0) ? w.node('MatMul', at('dA'), [dY, turn(b, 'b_turned')]) : undefined
  const dB = wants(1) ? w.node('MatMul', at('dB'), [turn(a, 'a_turned'), dY]) : undefined
  return [dA && w.reduceTo(dA, shape(a), at('dA.sum')), dB && w.reduceTo(dB, shape(b), at('dB.sum'))]
}

function byOneMatrix(of: Backward, a: string, b: string): readonly (string | undefined)[] {
  const { w, wants, at, shape, again } = of
  const dY = w.rows(of.whole())
  const dA = wants(0)
    ? w.reshape(w.node('Gemm', at('dA'), [dY, again(b)], { transB: 1 }), shape(a), at('dA.shaped'))
    : undefined
  const dB = wants(1) ? w.node('Gemm', at('dB'), [w.rows(again(a)), dY], { transA: 1 }) : undefined
  return [dA, dB]
}

const gemm: Rule = (of) => {
  const { w, node, wants, at, x, again } = of
  const { transA = 0, transB = 0, alpha, beta } = node.attributes
  assert(
    transA === 0 && alpha === undefined && beta === undefined && node.inputs.length === 2,
    `${node.name} is no plain Gemm`,
  )
  const dY = of.whole()
  const dA = wants(0) ? w.node('Gemm', at('dA'), [dY, again(x(1))], transB === 1 ? {} : { transB: 1 }) : undefined
  if (!wants(1)) return [dA, undefined]
  const sides = transB === 1 ? [dY, again(x(0))] : [again(x(0)), dY]
  return [dA, w.node('Gemm', at('dB'), sides, { transA: 1 })]
}

export const PRODUCTS: Readonly<Record<string, Rule>> = { MatMul: matMul, Gemm: gemm }
