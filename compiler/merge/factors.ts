// The factors of one tensor as the kernel reads them, all adapters side by side, each scaled exactly once:
//
//   Σᵢ wᵢ·sᵢ·Bᵢ·Aᵢ = left·right      left = [w₁s₁B₁ | w₂s₂B₂ | …] [rows, Σr], right = [A₁; A₂; …] [Σr, columns]
//
// and where W is stored transposed, left = [w₁s₁A₁ᵀ | …] and right = [B₁ᵀ; …].
import type { FloatDtype } from '../safetensors/dtypes.ts'
import { LEFT_BYTES, RIGHT_BYTES, STEP_COLUMNS, STEP_ROWS } from './kernel-code.ts'
import type { TensorPlan } from './plan.ts'

type Floats = Float32Array | Float64Array

export function rightBytes({ columns, rank }: TensorPlan, dtype: FloatDtype): number {
  return Math.ceil(columns / STEP_COLUMNS[dtype]) * rank * RIGHT_BYTES
}

export function leftBytes({ rank }: TensorPlan, rows: number, dtype: FloatDtype): number {
  return Math.ceil(rows / STEP_ROWS) * rank * LEFT_BYTES[dtype]
}

/** [groups of columns, Σr, columns of a group]; the last group ends with the last column. */
export function packRight(plan: TensorPlan, dtype: FloatDtype, target: Floats): void {
  const { columns, rank } = plan
  const width = STEP_COLUMNS[dtype]
  let first = 0
  for (const { change } of plan.lowRank) {
    const { A, B, r, transposed } = change
    for (let from = 0, at = first * width; from < columns; from += width, at += rank * width) {
      const start = Math.min(from, columns - width)
      for (let k = 0; k < r; k += 1) {
        for (let i = 0; i < width; i += 1) {
          const column = start + i
          target[at + k * width + i] = (transposed ? B[column * r + k] : A[k * columns + column]) as number
        }
      }
    }
    first += r
  }
}

/** Rows `start` … of left as [steps, Σr, 4]; the last step ends with the last row. */
export function packLeft(plan: TensorPlan, start: number, count: number, target: Floats): void {
  let first = 0
  for (const { change, scale } of plan.lowRank) {
    const { A, B, r, transposed } = change
    for (let from = 0, at = first * STEP_ROWS; from < count; from += STEP_ROWS, at += plan.rank * STEP_ROWS) {
      const row = start + Math.min(from, count - STEP_ROWS)
      for (let k = 0; k < r; k += 1) {
        for (let i = 0; i < STEP_ROWS; i += 1) {
          const factor = (transposed ? A[k * plan.rows + row + i] : B[(row + i) * r + k]) as number
          target[at + k * STEP_ROWS + i] = scale * factor
        }
      }
    }
    first += r
  }
}
