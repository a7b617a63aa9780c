// What computes in a page: WebGPU where there is a GPU, else WebAssembly on the CPU, and a sentence that says which and why.
import { inputError } from '../../compiler/errors.ts'
import { openDevice, setUpWeb } from '../../runtime/web.ts'
import type { Settings } from './settings.ts'

export type DeviceWish = Pick<Settings, 'provider' | 'threads'>

export interface Device {
  readonly provider: 'webgpu' | 'wasm'
  /** Of WebAssembly. */
  readonly threads: number
  /** For people. */
  readonly name: string
  /** Where it is not what was asked for, or slower than it could be. */
  readonly notes: readonly string[]
}

/** Where the page has the runtime, of the npm package onnxruntime-web: `ort-wasm-simd-threaded.asyncify` with both endings. */
export interface RuntimeUrls {
  readonly wasm: string
  readonly script: string
}

/** A page is not the only one on its machine, and the matrix kernels gain little beyond. */
const MAX_THREADS = 8

export async function chooseDevice({ provider: choice, threads: wanted }: DeviceWish): Promise<Device> {
  const isolated = globalThis.crossOriginIsolated === true
  if (wanted !== null && !(Number.isInteger(wanted) && wanted >= 1 && wanted <= MAX_THREADS)) {
    throw inputError('train-option', `threads is ${wanted}; give a whole number from 1 to ${MAX_THREADS}`)
  }
  const threads = isolated ? (wanted ?? Math.min(MAX_THREADS, Math.max(1, navigator.hardwareConcurrency))) : 1
  const cpu = `WebAssembly on the CPU, ${threads} thread${threads === 1 ? '' : 's'}`
  const slow = isolated
    ? []
    : [
        'the page is not cross-origin isolated, so WebAssembly has one thread; serve it with COOP same-origin and COEP require-corp',
      ]
  const onCpu = (...notes: string[]): Device => ({ provider: 'wasm', threads, name: cpu, notes: [...notes, ...slow] })
  if (choice === 'wasm') return onCpu()
  const opened = await openDevice()
  if (opened === undefined) return onCpu('this browser has no WebGPU here, so it trains with WebAssembly on the CPU')
  const { name, software } = opened.info
  if (choice === 'auto' && software) {
    return onCpu(`WebGPU is here, but in software (${name}), so it trains with WebAssembly on the CPU, which is faster`)
  }
  return { provider: 'webgpu', threads: 1, name: `WebGPU on ${name === '' ? 'the GPU' : name}`, notes: [] }
}

/** Once per thread, before the first graph. */
export async function setUpDevice({ threads }: Pick<Device, 'threads'>, { wasm, script }: RuntimeUrls): Promise<void> {
  const answer = await fetch(new URL(wasm, globalThis.location.href))
  if (!answer.ok) throw new Error(`the runtime at ${wasm}: HTTP status ${answer.status}`)
  const bytes = new Uint8Array(await answer.arrayBuffer())
  setUpWeb({ wasm: bytes, threads, script: new URL(script, globalThis.location.href).href })
}
