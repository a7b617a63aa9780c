// Gradients of what only moves numbers: each moves them back.
//
//   Reshape, Unsqueeze, Squeeze   dX = dY in the shape of x
//   Transpose                     dX = dY transposed by the inverse permutation
//   Concat                        dXᵢ = the part of dY that xᵢ is
//   Split                         dX = the parts' gradients side by side, zeros where a part is not read
//   Slice                         dX = dY between zeros
//   Where(c, a, b)                dA = c ? dY : 0,  dB = c ? 0 : dY
//   Expand                        dX = dY summed over what was repeated
//   Cast (between floats)         dX = dY
import { assert } from '../../../compiler/errors.ts'
import { type Rule, sumTo } from '../rule.ts'

const shaped: Rule = ({ w, whole, at, x, shape, node }) => [
  w.reshape(whole(), shape(x(0)), at('d')),
  ...node.inputs.slice(1).map(() => undefined),
]

const transpose: Rule = ({ w, whole, at, node, y, shape }) => {
  const { perm } = node.attributes
  const forward = Array.isArray(perm) ? (perm as number[]) : shape(y).map((_, axis) => shape(y).length - 1 - axis)
  const back = forward.map((_, axis) => forward.indexOf(axis))
  return [w.node('Transpose', at('d'), [whole()], { perm: back })]
}

const concat: Rule = ({ w, whole, at, node, wants, shape }) => {
  const rank = shape(node.outputs[0] as string).length
  const given = node.attributes.axis as number
  const axis = given < 0 ? given + rank : given
  const sizes = node.inputs.map((value) => shape(value)[axis])
  assert(
    sizes.every((size) => typeof size === 'number'),
    `${node.name} joins lengths that only the run knows`,
  )
  if (!node.inputs.some((_, i) => wants(i))) return []
  const shapes = node.inputs.map(shape)
  const parts = w.nodes('Split', at('d'), [whole(), w.ints(...(sizes as number[]))], sizes.length, { axis }, shapes)
  return node.inputs.map((_, i) => (wants(i) ? parts[i] : undefined))
}

const split: Rule = ({ w, at, node, gradientOf, shape }) => {
  const parts = node.outputs.map((output, i) => {
    const gradient = gradientOf(i)
    return gradient === undefined
      ? w.zeros(shape(output), at(`zeros.${i}`))
      : w.expand(gradient, shape(output), at(`whole.${i}`))
  })
  const axis = node.attributes.axis as number
  return [w.node('Concat', at('d'), parts, { axis }, shape(node.inputs[0] as string)), undefined]
}

const slice: Rule = ({ w, whole, at, node, x, shape }) => {
  const [starts, ends, axes] = [1, 2, 3].map((i) => w.constantInts(x(i)))
  const [start, end, given] = [starts?.[0], ends?.[0], axes?.[0]]
  const from = shape(x(0))
  assert(
    start !== undefined && end !== undefined && given !== undefined && axes?.length === 1 && node.inputs.length === 4,
    `${node.name} is no slice of one axis`,
  )
  const axis = given < 0 ? given + from.length : given
  const size = from[axis]
  assert(typeof size === 'number', `${node.name} cuts a length that only the run knows`)
  const place = (bound: number) => Math.min(size, Math.max(0, bound < 0 ? bound + size : bound))
  const zeros = (length: number, part: string) =>
    length === 0
      ? []
      : [
          w.zeros(
            from.map((dim, at) => (at === axis ? length : dim)),
            at(part),
          ),
        ]
  const parts = [...zeros(place(start), 'before'), whole(), ...zeros(size - place(end), 'after')]
  const d = parts.length === 1 ? whole() : w.node('Concat', at('d'), parts, { axis }, from)
  return [d, ...node.inputs.slice(1).map(() => undefined)]
}

const where: Rule = (of) => {
  const { w, at, x, wants, shape } = of
  const dY = of.whole()
  const zero = w.float(0)
  return [
    undefined,
    wants(1) ? sumTo(of, w.node('Where', at('dA'), [x(0), dY, zero]), shape(x(1)), 'dA.sum') : undefined,
    wants(2) ? sumTo(of, w.node('Where', at('dB'), [x(0), zero, dY]), shape(x(2)), 'dB.sum') : undefined,
  ]
}

const expand: Rule = (of) => [sumTo(of, of.whole(), of.shape(of.x(0)), 'd'), undefined]
const cast: Rule = ({ dY }) => [dY]

export const LAYOUT: Readonly<Record<string, Rule>> = {
  Reshape: shaped,
  Unsqueeze: shaped,
  Squeeze: shaped,
  Transpose: transpose,
  Concat: concat,
  Split: split,
  Slice: slice,
  Where: where,
  Expand: expand,
  Cast: cast,
}
