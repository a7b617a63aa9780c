// A graph that can be run, whatever runs it. One file beside this one per build of ONNX Runtime.

export type TensorData = Float32Array | BigInt64Array

export interface Tensor {
  readonly data: TensorData
  readonly dims: readonly number[]
}

export interface Session {
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  /** Runs once. Feeds are used in place, without a copy; results are fresh arrays. */
  run(feeds: Readonly<Record<string, Tensor>>, outputs?: readonly string[]): Promise<Record<string, Tensor>>
  release(): Promise<void>
}
