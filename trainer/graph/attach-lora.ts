// The low-rank path of one linear, trainable.
//
//   LoRA      y = x·Wᵀ + s·(d(x)·A)·B                      A [in, r], B [r, out], d dropout
//   DoRA      y = (m/n)·(x·Wᵀ + s·(d(x)·A)·B), n = ‖Wᵀ + s·A·B‖ of each output, a constant for gradients as in PEFT
//   PiSSA     y = x·Wᵀ + s·(x·A)·B − s·(x·A₀)·B₀           A₀, B₀ what A and B began as
//
// W is read and never written. With PiSSA the residual that the paper trains beside is W − s·(A₀·B₀)ᵀ, so subtracting the
// path of A₀ and B₀ is the same model, on the base as it was published; at step 0 the paths cancel bit for bit.
//
//   n² = ‖Wᵀ‖² + 2s·Σₖ (W·A)ₖ·Bₖ + s²·Σₖ Bₖ·(AᵀA·B)ₖ       per output: no matrix [in, out] is made
import type { GraphWriter } from '../autodiff/writer.ts'
import type { LoraModuleSpec, LoraSpec } from '../lora/spec.ts'
import { trainingNames as names } from './names.ts'
import type { Unpack } from './unpack.ts'

export interface Frozen {
  readonly x: string
  /** x·Wᵀ */
  readonly product: string
  /** Wᵀ [in, out], or W [out, in] by `unpack`. */
  readonly weight: string
  readonly unpack: Unpack | undefined
  /** Name of the value that the rest of the graph reads. */
  readonly output: string
}

export interface Attached {
  /** Inputs of the graph that are trained. */
  readonly trainable: readonly string[]
  /** Values that count as constants. */
  readonly fixed: readonly string[]
}

/** `index`: of the module among those that have a path. `again` learns what is better computed twice than kept. */
export function attachLora(
  w: GraphWriter,
  { linear, scaling }: LoraModuleSpec,
  { dora, dropout, init }: LoraSpec,
  frozen: Frozen,
  index: number,
  again: Map<string, (after: string) => string>,
): Attached {
  const { module, in: inSize, out } = linear
  // Named and not a number: to wait for a gradient is cheaper where its size is not known (GraphWriter.after).
  const rank = `${module}.rank`
  const A = w.input(names.loraA(module), 'float32', [inSize, rank])
  const B = w.input(names.loraB(module), 'float32', [rank, out])
  const scale = w.float(scaling)
  const path = (x: string, a: string, b: string, part: string) => {
    const low = w.node('Mul', `${module}.${part}.scaled`, [w.node('MatMul', `${module}.${part}.low`, [x, a]), scale])
    return w.node('MatMul', `${module}.${part}.high`, [low, b])
  }
  const dropped = dropout === 0 ? frozen.x : dropInputs(w, module, frozen.x, inSize, index, again)
  const learned = path(dropped, A, B, 'lora')
  const add = (a: string, b: string) =>
    w.add({ op: 'Add', name: `${module}.adapted`, inputs: [a, b], outputs: [frozen.output], attributes: {} })
  if (init === 'pissa') {
    const startA = w.input(names.startA(module), 'float32', [inSize, rank])
    const startB = w.input(names.startB(module), 'float32', [rank, out])
    const moved = w.node('Sub', `${module}.moved`, [learned, path(dropped, startA, startB, 'start')])
    add(frozen.product, moved)
    return { trainable: [A, B], fixed: [] }
  }
  if (!dora) {
    add(frozen.product, learned)
    return { trainable: [A, B], fixed: [] }
  }
  const magnitude = w.input(names.magnitude(module), 'float32', [out])
  const norm = writeNorm(w, module, frozen, A, B, scaling)
  const share = w.node('Div', `${module}.share`, [magnitude, norm])
  const sum = w.node('Add', `${module}.sum`, [frozen.product, learned])
  w.add({ op: 'Mul', name: `${module}.adapted`, inputs: [sum, share], outputs: [frozen.output], attributes: {} })
  return { trainable: [A, B, magnitude], fixed: [norm] }
}

/** d(x) = x · window of the noise. The window is cut again for the backward pass, and so is the product. */
function dropInputs(
  w: GraphWriter,
  module: string,
  x: string,
  inSize: number,
  index: number,
  again: Map<string, (after: string) => string>,
): string {
  const cut = (after: string | undefined) => {
    const starts =
      after === undefined ? names.dropoutStarts : w.after(names.dropoutStarts, [after], `${module}.drop.now`)
    const start = w.node('Gather', `${module}.drop.start`, [starts, w.ints(index)], { axis: 0 })
    const shape = w.shapeVector(w.shape(x))
    const length = w.node('ReduceProd', `${module}.drop.length`, [shape, w.ints(0)], { keepdims: 1 }, [1])
    const end = w.node('Add', `${module}.drop.end`, [start, length])
    const window = w.node('Slice', `${module}.drop.window`, [names.dropoutNoise, start, end, w.ints(0)], {}, [
      `${module}.${inSize}.window`,
    ])
    return w.node('Reshape', `${module}.drop.mask`, [window, shape], {}, w.shape(x))
  }
  const mask = cut(undefined)
  again.set(mask, cut)
  const dropped = w.node('Mul', `${module}.drop`, [x, mask])
  again.set(dropped, (after) => w.node('Mul', `${module}.drop.again`, [x, cut(after)]))
  return dropped
}

function writeNorm(w: GraphWriter, module: string, frozen: Frozen, A: string, B: string, scaling: number): string {
  const at = (part: string) => `${module}.norm.${part}`
  const matrix = frozen.unpack === undefined ? frozen.weight : frozen.unpack(frozen.x)
  const along = frozen.unpack === undefined ? 0 : 1
  const own = w.node('ReduceSumSquare', at('own'), [matrix, w.ints(along)], { keepdims: 0 })
  // Aᵀ·Wᵀ [r, out]
  const cross = w.node('Gemm', at('cross'), [A, matrix], { transA: 1, ...(along === 1 && { transB: 1 }) })
  const gram = w.node('Gemm', at('gram'), [A, A], { transA: 1 })
  const squares = w.node('Mul', at('squares'), [w.node('MatMul', at('gram_B'), [gram, B]), w.float(scaling * scaling)])
  const mixed = w.node('Mul', at('mixed'), [cross, w.float(2 * scaling)])
  const terms = w.node('Mul', at('terms'), [w.node('Add', at('both'), [mixed, squares]), B])
  const change = w.node('ReduceSum', at('change'), [terms, w.ints(0)], { keepdims: 0 })
  return w.node('Sqrt', names.norm(module), [w.node('Add', at('squared'), [own, change])])
}
