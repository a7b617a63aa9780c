// ONNX Runtime as WebAssembly, computing on a WebGPU device or on the CPU: the same code in a page and in Node, where
// web-on-node.ts supplies what a page has. On the device tensors stay in GPU buffers from run to run.
import * as ort from 'onnxruntime-web/webgpu'
import type { Session, Tensor, TensorData } from './session.ts'

/** float32, from the start of the buffer, which may be longer. */
export interface DeviceTensor {
  readonly buffer: GPUBuffer
  readonly dims: readonly number[]
}

/** An output that stayed on the device; ONNX Runtime takes its buffer back at `dispose`. */
export interface DeviceOutput extends DeviceTensor {
  dispose(): void
}

export interface DeviceSession {
  readonly device: GPUDevice
  readonly inputs: readonly string[]
  /** Feeds of both kinds; every output stays on the device. */
  run(feeds: Readonly<Record<string, Tensor | DeviceTensor>>): Promise<Record<string, DeviceOutput>>
  release(): Promise<void>
}

/** A graph as bytes, and its external data under the names that it uses. */
export interface GraphBytes {
  readonly graph: Uint8Array
  readonly weights: readonly { readonly path: string; readonly data: Uint8Array }[]
}

/** WebAssembly's memory ends at 4 GiB, and while a session is made its weights are in there twice for a moment. */
export const MAX_WEB_WEIGHT_BYTES = 1.75 * 1024 ** 3

/** Once per thread or page, before the first session. */
export function setUpWeb({
  wasm,
  threads,
  script,
}: {
  readonly wasm: Uint8Array<ArrayBuffer>
  readonly threads: number
  /** URL of the loader of `wasm`. In a page more threads than one want it: each of them begins with that script. */
  readonly script?: string
}): void {
  ort.env.wasm.wasmBinary = wasm
  if (script !== undefined) ort.env.wasm.wasmPaths = { mjs: script }
  ort.env.wasm.numThreads = threads
  // The runtime reports at this level what it also throws.
  ort.env.logLevel = 'error'
}

export interface DeviceInfo {
  /** Such as `nvidia ampere`, as far as the platform tells. */
  readonly name: string
  /** It computes on the CPU: right, and slow. */
  readonly software: boolean
}

export interface OpenDevice {
  readonly device: GPUDevice
  readonly info: DeviceInfo
}

let opening: Promise<OpenDevice | undefined> | undefined

/** The device that all sessions of this thread or page share; undefined where there is none. */
export function openDevice(): Promise<OpenDevice | undefined> {
  opening ??= requestDevice()
  return opening
}

async function requestDevice(): Promise<OpenDevice | undefined> {
  const adapter = await globalThis.navigator?.gpu?.requestAdapter({ powerPreference: 'high-performance' })
  if (!adapter) return undefined
  const { limits, info } = adapter
  const device = await adapter.requestDevice({
    requiredFeatures: FEATURES.filter((feature) => adapter.features.has(feature)),
    // A bank or an embedding is one buffer; the default limits are those of a phone.
    requiredLimits: Object.fromEntries(LIMITS.map((name) => [name, limits[name]])),
  })
  // Whoever runs on it can only start anew: a worker thread ends by this, and is replaced.
  void device.lost.then(({ reason, message }) => {
    if (reason !== 'destroyed') throw new Error(`the WebGPU device was lost: ${message}`)
  })
  const name = [info.vendor, info.architecture, info.description].filter((part) => part !== '').join(' ')
  return { device, info: { name, software: info.isFallbackAdapter || /swiftshader|llvmpipe/i.test(name) } }
}

/** What ONNX Runtime's kernels use where it is there. */
const FEATURES: readonly GPUFeatureName[] = ['shader-f16', 'subgroups']
const LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupSizeZ',
  'maxComputeWorkgroupsPerDimension',
] as const

/** Tensors in host memory, as with the native runtime; on WASM every feed is copied into its memory at each run. */
export async function openWebSession(bytes: GraphBytes, provider: 'webgpu' | 'wasm'): Promise<Session> {
  const opened = provider === 'webgpu' ? await openDevice() : undefined
  const session = await create(bytes, opened?.device, {})
  return {
    inputs: session.inputNames,
    outputs: session.outputNames,
    async run(feeds, outputs = session.outputNames) {
      const results = await session.run(toOrt(feeds), [...outputs])
      return Object.fromEntries(
        Object.entries(results).map(([name, { data, dims }]) => [name, { data: data as TensorData, dims }]),
      )
    },
    release: () => session.release(),
  }
}

/** Throws where there is no device: see `openDevice`. */
export async function openDeviceSession(bytes: GraphBytes): Promise<DeviceSession> {
  const opened = await openDevice()
  if (opened === undefined) throw new Error('sidepath bug: a session on a device was asked for where there is none')
  const session = await create(bytes, opened.device, { preferredOutputLocation: 'gpu-buffer' })
  return {
    device: opened.device,
    inputs: session.inputNames,
    async run(feeds) {
      const results = await session.run(toOrt(feeds))
      return Object.fromEntries(
        Object.entries(results).map(([name, tensor]) => [
          name,
          { buffer: tensor.gpuBuffer as GPUBuffer, dims: tensor.dims, dispose: () => tensor.dispose() },
        ]),
      )
    },
    release: () => session.release(),
  }
}

let creating: Promise<unknown> = Promise.resolve()

/** One after the other: ONNX Runtime takes a second one meanwhile for an error. */
function create(
  { graph, weights }: GraphBytes,
  device: GPUDevice | undefined,
  options: ort.InferenceSession.SessionOptions,
): Promise<ort.InferenceSession> {
  const created = creating.then(() =>
    ort.InferenceSession.create(graph, {
      executionProviders: device === undefined ? ['wasm'] : [{ name: 'webgpu', device }],
      externalData: weights.map(({ path, data }) => ({ path, data })),
      // Shapes change at every step, so a memory pattern planned for one shape is of no use to the next.
      enableMemPattern: false,
      logSeverityLevel: 3,
      ...options,
    }),
  )
  creating = created.catch(() => {})
  return created
}

function toOrt(feeds: Readonly<Record<string, Tensor | DeviceTensor>>): Record<string, ort.Tensor> {
  return Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, tensorOf(tensor)]))
}

function tensorOf(tensor: Tensor | DeviceTensor): ort.Tensor {
  if ('buffer' in tensor) {
    return ort.Tensor.fromGpuBuffer(tensor.buffer, { dataType: 'float32', dims: tensor.dims })
  }
  return tensor.data instanceof Float32Array
    ? new ort.Tensor('float32', tensor.data, tensor.dims)
    : new ort.Tensor('int64', tensor.data, tensor.dims)
}
