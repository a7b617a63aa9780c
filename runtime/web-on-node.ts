// What a page has and Node lacks: `navigator.gpu`, by Dawn (npm `webgpu`), and the bytes of ONNX Runtime's WebAssembly.
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { setUpWeb } from './web.ts'

/** The build with WebGPU, whose loader the bundle of `onnxruntime-web/webgpu` has in it. */
const WASM = 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm'

let done: Promise<void> | undefined

/** Once per thread; then runtime/web.ts works. Without the package or a driver there is simply no device. */
export function setUpWebOnNode(): Promise<void> {
  done ??= setUp()
  return done
}

async function setUp(): Promise<void> {
  // Dawn prints on its own what it misses, so it is asked only once per thread.
  const dawn = await import('webgpu').catch(() => undefined)
  if (dawn !== undefined) {
    Object.assign(globalThis, dawn.globals)
    Object.defineProperty(globalThis.navigator, 'gpu', { value: dawn.create([]), configurable: true })
  }
  const wasm = await readFile(createRequire(import.meta.url).resolve(WASM))
  // The bundle cannot start threads of its own in Node.
  setUpWeb({ wasm: new Uint8Array(wasm), threads: 1 })
}
