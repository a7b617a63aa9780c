// ONNX Runtime on Node (native: CPU, and CUDA where it is installed). `session.run` blocks the calling thread for the
// whole step and copies every output, so whoever serves requests keeps sessions in a worker thread and large tensors out
// of the outputs.
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import * as ort from 'onnxruntime-node'
import type { Session, Tensor, TensorData } from './session.ts'

export type { Session, Tensor } from './session.ts'

/** Of a type that its array does not tell; `data` of float16 are the bits. */
export interface TypedTensor {
  readonly type: 'float32' | 'float16' | 'int64' | 'int32' | 'bool'
  readonly data: TensorData | Uint16Array | Int32Array | Uint8Array
  readonly dims: readonly number[]
}

export interface NodeSession extends Session {
  run(
    feeds: Readonly<Record<string, Tensor | TypedTensor>>,
    outputs?: readonly string[],
  ): Promise<Record<string, Tensor>>
}

export interface SessionOptions {
  /** Threads of the matrix kernels; 0 lets ONNX Runtime take one per core. */
  readonly threads?: number
  /** Where the operators run; what one of them cannot run, the CPU does. */
  readonly provider?: 'cpu' | 'cuda'
  /**
   * false: weights are read where they lie, and no kernel makes a copy in an order of its own. Right for long batches,
   * where a copy gains nothing and doubles the memory.
   */
  readonly prepack?: boolean
  /**
   * How long a thread waits for the next operator by spinning before it sleeps, microseconds; none without. Waking one takes
   * longer than a small operator does. It never spins between runs.
   */
  readonly spinUs?: number
}

/** True where ONNX Runtime's CUDA binaries are installed: it lists CUDA also where only its loader is. */
export function hasCuda(): boolean {
  const cuda = ort.listSupportedBackends().find(({ name }) => name === 'cuda')
  if (cuda === undefined || cuda.bundled) return cuda !== undefined
  const main = createRequire(import.meta.url).resolve('onnxruntime-node')
  const folder = join(main, '..', '..', 'bin', 'napi-v6', process.platform, process.arch)
  const file = process.platform === 'win32' ? 'onnxruntime_providers_cuda.dll' : 'libonnxruntime_providers_cuda.so'
  return existsSync(join(folder, file))
}

/** Opens a graph file; its external data is read from the same folder. */
export async function openSession(path: string, options: SessionOptions = {}): Promise<NodeSession> {
  const session = await ort.InferenceSession.create(path, {
    executionProviders: options.provider === 'cuda' ? ['cuda', 'cpu'] : ['cpu'],
    intraOpNumThreads: options.threads ?? 0,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    // Shapes change at every step, so a memory pattern planned for one shape is of no use to the next.
    enableMemPattern: false,
    // Threads that spin on and on take the cores from whoever else works on the machine, the HTTP thread first.
    extra: {
      session: {
        force_spinning_stop: '1',
        intra_op:
          options.spinUs === undefined
            ? { allow_spinning: '0' }
            : { allow_spinning: '1', spin_duration_us: String(options.spinUs) },
        ...(options.prepack === false && { disable_prepacking: '1' }),
      },
    },
    logSeverityLevel: 3,
  })
  return {
    inputs: session.inputNames,
    outputs: session.outputNames,
    async run(feeds, outputs = session.outputNames) {
      const results = await session.run(
        Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, toOrt(tensor)])),
        [...outputs],
      )
      return Object.fromEntries(
        Object.entries(results).map(([name, value]) => {
          const tensor = value as ort.Tensor
          return [name, { data: tensor.data as TensorData, dims: tensor.dims }]
        }),
      )
    },
    release: () => session.release(),
  }
}

/** A wrapped input costs about a microsecond, and there are hundreds that are the same objects at every step. */
const wrapped = new WeakMap<Tensor | TypedTensor, ort.Tensor>()

function toOrt(tensor: Tensor | TypedTensor): ort.Tensor {
  let known = wrapped.get(tensor)
  if (known === undefined) {
    known = wrap(tensor)
    wrapped.set(tensor, known)
  }
  return known
}

function wrap(tensor: Tensor | TypedTensor): ort.Tensor {
  if ('type' in tensor) return new ort.Tensor(tensor.type, tensor.data as ort.Tensor.DataType, tensor.dims)
  return tensor.data instanceof Float32Array
    ? new ort.Tensor('float32', tensor.data, tensor.dims)
    : new ort.Tensor('int64', tensor.data, tensor.dims)
}
