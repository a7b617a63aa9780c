// Whether a run fits into a page, before anything of the base is loaded.
import { MAX_WEB_WEIGHT_BYTES } from '../../runtime/web.ts'
import type { Plan } from '../run/plan.ts'
import type { Device } from './device.ts'

/** WebAssembly addresses no more. */
const HEAP_BYTES = 4 * 2 ** 30
/**
 * Of the CPU. The second graph, which measures the held-out loss, has weights of its own, and while it is opened they are
 * there once more: three times this, and activations, is what the heap holds.
 */
const MAX_WASM_WEIGHT_BYTES = 0.8 * 2 ** 30

export interface Fit {
  /** Of the tab at its fullest, the GPU's share included. */
  readonly bytes: number
  /** Why it does not fit, and what to do; undefined where it does. */
  readonly problem: string | undefined
}

export function fitInPage({ memory }: Plan, { provider }: Pick<Device, 'provider'>, hasHeldOut: boolean): Fit {
  const { weightsBytes, trainedBytes, activationBytes, totalBytes } = memory
  // Beside the graph's own: the bytes that it was made from, and the other graph's.
  const copies = hasHeldOut ? 2 : 1
  const bytes = totalBytes + copies * weightsBytes
  const most = provider === 'wasm' ? MAX_WASM_WEIGHT_BYTES : MAX_WEB_WEIGHT_BYTES
  const way = 'hold the base in int4, or train with `sidepath train` outside the browser'
  if (weightsBytes > most) {
    const where = provider === 'wasm' ? 'WebAssembly' : 'WebGPU'
    return {
      bytes,
      problem: `the base takes ${mib(weightsBytes)} as it would be held, and a page trains at most ${mib(most)} with ${where}; ${way}`,
    }
  }
  const heap = (copies + 1) * weightsBytes + trainedBytes + activationBytes
  if (provider === 'wasm' && heap > HEAP_BYTES) {
    return {
      bytes,
      problem: `the run would take ${mib(heap)} of WebAssembly's memory, which ends at ${mib(HEAP_BYTES)}; take fewer rows a step, shorter examples or recomputed activations, or ${way}`,
    }
  }
  return { bytes, problem: undefined }
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20).toLocaleString('en')} MiB`
}
