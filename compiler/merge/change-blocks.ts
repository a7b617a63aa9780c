// The general case, in float32 and row by row: whole tensors and rows replaced, biases added, DoRA, matrices too small
// for the kernel. In the order of the contract:
//
//   V = (replacement or W) + Σᵢ wᵢ·sᵢ·Bᵢ·Aᵢ + Σᵢ wᵢ·sᵢ·bᵢ;   DoRA: V ← m·V/‖V‖ per output;   rows replaced;   rounded once
import { assert } from '../errors.ts'
import { decodeFloats, ELEMENT_BYTES } from '../safetensors/decode.ts'
import { addSquares, scaleColumns, scaleRows } from './dora.ts'
import { notFinite } from './not-finite.ts'
import type { TensorPlan } from './plan.ts'
import { roundFloats } from './round.ts'
import { fitsKernel, type RowBlock, type Slot, type Workspace } from './workspace.ts'
import type { Block } from './write-in-order.ts'

/** The sums of the general case are taken for this type. */
export const SUM_DTYPE = 'F32'

type Sum = (slot: Slot, block: RowBlock) => Promise<Float32Array<ArrayBuffer>>

export async function* changeBlocks(plan: TensorPlan, workspace: Workspace): AsyncGenerator<Block<Slot, Uint8Array>> {
  const blocks = workspace.rowBlocks(plan, SUM_DTYPE)
  const sum = await openSum(plan, workspace)
  const dora = await readDora(plan, blocks, sum, workspace)
  for (const block of blocks) {
    yield {
      async fill(slot) {
        const values = await sum(slot, block)
        dora?.(values, block)
        replaceRows(values, block, plan)
        const { bytes, firstBad } = roundFloats(values, plan.tensor.dtype)
        if (firstBad >= 0) throw notFinite(plan, await readStored(plan, block))
        return bytes
      },
    }
  }
}

/** W + the deltas, without what is done to the sum. */
async function openSum(plan: TensorPlan, workspace: Workspace): Promise<Sum> {
  const { lowRank, columns } = plan
  const before = async (block: RowBlock) => {
    const source = plan.replacement ?? plan.tensor
    const values = decodeFloats(await readStored(plan, block), source.dtype)
    addDense(values, block, plan)
    return values
  }
  if (lowRank.length === 0) return (_, block) => before(block)
  if (!fitsKernel(plan, SUM_DTYPE)) {
    return async (_, block) => {
      const values = await before(block)
      addLowRank(values, block, plan)
      return values
    }
  }
  const merge = await workspace.load(plan, SUM_DTYPE)
  return async (slot, block) => {
    const load = async () => {
      workspace.floats(slot.source, block.count * columns).set(await before(block))
    }
    await merge.add(slot, block, load())
    return new Float32Array(workspace.floats(slot.target, block.count * columns))
  }
}

async function readDora(
  plan: TensorPlan,
  blocks: readonly RowBlock[],
  sum: Sum,
  workspace: Workspace,
): Promise<((values: Float32Array, block: RowBlock) => void) | undefined> {
  const dora = plan.lowRank.find(({ change }) => change.magnitude !== undefined)?.change
  if (dora?.magnitude === undefined) return undefined
  const { magnitude, transposed } = dora
  if (!transposed) return (values, { start }) => scaleRows(values, start, plan.columns, magnitude)
  // The norm of an output that is a column needs every row, so the tensor is summed twice.
  const [slot] = workspace.slots
  assert(slot !== undefined, 'a workspace has slots')
  const squares = new Float64Array(plan.columns)
  for (const block of blocks) addSquares(await sum(slot, block), squares)
  const factors = squares.map((square, output) => (magnitude[output] as number) / Math.sqrt(square))
  return (values) => scaleColumns(values, factors)
}

/** The bytes of a block as stored, in the type of the replacement or of the base. */
function readStored({ tensor, replacement, columns }: TensorPlan, { start, count }: RowBlock) {
  const from = replacement ?? tensor
  const rowBytes = columns * ELEMENT_BYTES[from.dtype]
  return from.source.read(from.offset + start * rowBytes, count * rowBytes)
}

function addDense(values: Float32Array, { start }: RowBlock, { added, columns }: TensorPlan): void {
  if (added.length === 0) return
  const from = start * columns
  for (let i = 0; i < values.length; i += 1) {
    let sum = values[i] as number
    for (const { change, scale } of added) sum += scale * (change.value[from + i] as number)
    values[i] = sum
  }
}

/** In double, for matrices of a few rows or columns. */
function addLowRank(values: Float32Array, { start }: RowBlock, { columns, rows, lowRank }: TensorPlan): void {
  for (let at = 0; at < values.length; at += 1) {
    const row = start + Math.floor(at / columns)
    const column = at % columns
    let sum = values[at] as number
    for (const { change, scale } of lowRank) {
      const { A, B, r, transposed } = change
      const [output, input] = transposed ? [column, row] : [row, column]
      const inputs = transposed ? rows : columns
      for (let k = 0; k < r; k += 1) sum += scale * (B[output * r + k] as number) * (A[k * inputs + input] as number)
    }
    values[at] = sum
  }
}

function replaceRows(values: Float32Array, { start, count }: RowBlock, { replacedRows, columns }: TensorPlan): void {
  replacedRows?.rows.forEach((row, index) => {
    if (row < start || row >= start + count) return
    values.set(replacedRows.value.subarray(index * columns, (index + 1) * columns), (row - start) * columns)
  })
}
