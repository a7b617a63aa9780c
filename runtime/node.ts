// ONNX Runtime on Node (native, CPU). `session.run` blocks the calling thread for the whole step and copies every
// output, so whoever serves requests keeps sessions in a worker thread and large tensors out of the outputs.
import * as ort from 'onnxruntime-node'

export type TensorData = Float32Array | BigInt64Array

export interface Tensor {
  readonly data: TensorData
  readonly dims: readonly number[]
}

/** Of a type that its array does not tell; `data` of float16 are the bits. */
export interface TypedTensor {
  readonly type: 'float32' | 'float16' | 'int64' | 'int32' | 'bool'
  readonly data: TensorData | Uint16Array | Int32Array | Uint8Array
  readonly dims: readonly number[]
}

export interface Session {
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  /** Runs once. Feeds are used in place, without a copy; results are fresh arrays. */
  run(
    feeds: Readonly<Record<string, Tensor | TypedTensor>>,
    outputs?: readonly string[],
  ): Promise<Record<string, Tensor>>
  release(): Promise<void>
}

export interface SessionOptions {
  /** Threads of the matrix kernels; 0 lets ONNX Runtime take one per core. */
  readonly threads?: number
}

/** Opens a graph file; its external data is read from the same folder. */
export async function openSession(path: string, options: SessionOptions = {}): Promise<Session> {
  const session = await ort.InferenceSession.create(path, {
    executionProviders: ['cpu'],
    intraOpNumThreads: options.threads ?? 0,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    // Shapes change at every step, so a memory pattern planned for one shape is of no use to the next.
    enableMemPattern: false,
    // Threads that spin between operators take the cores from whoever else works on the machine, the HTTP thread first.
    extra: { session: { intra_op: { allow_spinning: '0' } } },
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

function toOrt(tensor: Tensor | TypedTensor): ort.Tensor {
  if ('type' in tensor) return new ort.Tensor(tensor.type, tensor.data as ort.Tensor.DataType, tensor.dims)
  return tensor.data instanceof Float32Array
    ? new ort.Tensor('float32', tensor.data, tensor.dims)
    : new ort.Tensor('int64', tensor.data, tensor.dims)
}
