// An artifact on onnxruntime-web, in a page or in Node: on WebGPU base, bank and cache are the device's, on WASM they are
// this thread's memory as on the CPU.
import type { Manifest } from '../../compiler/contract.ts'
import { sitesOf } from '../../compiler/graph/sites.ts'
import type { Folder } from '../../compiler/host.ts'
import { withFile } from '../../compiler/read-file.ts'
import type { Tensor } from '../../runtime/session.ts'
import {
  type DeviceTensor,
  type GraphBytes,
  MAX_WEB_WEIGHT_BYTES,
  openDevice,
  openDeviceSession,
  openWebSession,
} from '../../runtime/web.ts'
import { BackendError } from '../errors.ts'
import { Bank } from './bank.ts'
import { Cache, type CacheShape } from './cache.ts'
import { DeviceBank } from './device-bank.ts'
import { DeviceCache } from './device-cache.ts'
import { createDeviceModel } from './device-model.ts'
import { createModel, type Model } from './model.ts'

/** What ONNX Runtime says of a kernel that was left out of a build. */
const MISSING_OPERATOR = /Could not find an implementation for (\w+)/

export interface WebModelOptions {
  readonly provider: 'webgpu' | 'wasm'
  readonly cache: CacheShape
  /** Slot 0 included; undefined where the graph has no low-rank path. */
  readonly bank: { readonly slots: number; readonly rank: number; readonly rows: number } | undefined
  /** Inputs that are the same in every run. */
  readonly fixed: Readonly<Record<string, Tensor>>
}

export interface WebModel {
  readonly model: Model
  readonly bank: Pick<Bank, 'rank' | 'prepare' | 'write'> | undefined
  /** What computes, for people. */
  readonly device: string
  release(): Promise<void>
}

/** The runtime was set up before. Throws `BackendError`. */
export async function openWebModel(folder: Folder, manifest: Manifest, options: WebModelOptions): Promise<WebModel> {
  const bytes = await readGraph(folder, manifest)
  try {
    return await (options.provider === 'webgpu' ? onDevice : onWasm)(bytes, manifest, options)
  } catch (error) {
    const operator = MISSING_OPERATOR.exec(String(error))?.[1]
    if (operator === undefined) throw error
    const found = `needs the operator ${operator}, which onnxruntime-web has not on ${options.provider}`
    throw unsuitable(folder, `${found}; choose another provider, or a base that is not quantised`)
  }
}

async function onDevice(bytes: GraphBytes, manifest: Manifest, options: WebModelOptions): Promise<WebModel> {
  const { info } = (await openDevice())!
  const session = await openDeviceSession(bytes)
  const { device } = session
  const cache = new DeviceCache(device, options.cache)
  const bank = options.bank && (await DeviceBank.open(device, sitesOf(manifest.base.architecture), options.bank))
  const fixed = Object.fromEntries(
    Object.entries(options.fixed).map(([name, tensor]) => [name, upload(device, tensor)]),
  )
  return {
    model: createDeviceModel({ manifest, session, cache, bank, fixed }),
    bank,
    device: `${info.name}${info.software ? ', a software device' : ''}`,
    async release() {
      await session.release()
      cache.destroy()
      bank?.destroy()
      for (const { buffer } of Object.values(fixed)) buffer.destroy()
    },
  }
}

async function onWasm(bytes: GraphBytes, manifest: Manifest, options: WebModelOptions): Promise<WebModel> {
  const session = await openWebSession(bytes, 'wasm')
  const cache = new Cache(options.cache)
  const bank = options.bank && new Bank(sitesOf(manifest.base.architecture), options.bank)
  const model = createModel({ manifest, session, cache, bank, fixed: options.fixed })
  return { model, bank, device: 'the CPU', release: () => session.release() }
}

function upload(device: GPUDevice, { data, dims }: Tensor): DeviceTensor {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST
  const buffer = device.createBuffer({ size: Math.max(data.byteLength, Float32Array.BYTES_PER_ELEMENT), usage })
  device.queue.writeBuffer(buffer, 0, data as Float32Array<ArrayBuffer>)
  return { buffer, dims }
}

async function readGraph(folder: Folder, { files, graphs }: Manifest): Promise<GraphBytes> {
  const data = files.filter(({ path }) => path.endsWith('.onnx_data'))
  const total = data.reduce((sum, { bytes }) => sum + bytes, 0)
  if (total > MAX_WEB_WEIGHT_BYTES) {
    const bound = `onnxruntime-web takes ${MAX_WEB_WEIGHT_BYTES} at most`
    throw unsuitable(folder, `has ${total} bytes of weights and ${bound}; quantise the base or choose cpu`)
  }
  const read = async (path: string): Promise<Uint8Array> => {
    const bytes = await withFile(folder, path, (file) => file.read(0, file.size))
    if (bytes === undefined) throw unsuitable(folder, `lacks ${path}; compile it again`)
    return bytes
  }
  const weights: { path: string; data: Uint8Array }[] = []
  for (const { path } of data) weights.push({ path, data: await read(path) })
  return { graph: await read(graphs.engine), weights }
}

function unsuitable(folder: Folder, what: string): BackendError {
  return new BackendError('artifact_unsuitable', `the artifact ${folder.name} ${what}`)
}
