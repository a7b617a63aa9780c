// What the merge needs from whoever hosts it: threads that run the kernel over one shared memory.

/** Bytes between a file and the memory. */
export interface Transfer {
  readonly file: number
  readonly offset: number
  readonly address: number
  readonly length: number
}

export interface LaneCall {
  readonly name: string
  readonly args: readonly number[]
}

/** A block is read, worked on and written while it is in that core's cache. */
export interface LaneStep {
  /** Without it the block is in the memory already. */
  readonly read?: Transfer
  /** Without it the block is only copied. */
  readonly call?: LaneCall
  /** Without it the block stays in the memory. */
  readonly write?: Transfer
}

/** Several instances of one WebAssembly module on one memory. */
export interface Lanes {
  readonly buffer: ArrayBufferLike
  /** Runs an exported function of i32 parameters and result, when a lane is free. */
  run(name: string, args: readonly number[]): Promise<number>
  /**
   * Does the steps one after the other on one lane, and gives the largest result, as an unsigned integer; 0 where
   * nothing is called. For hosts whose lanes can read and write files.
   */
  stream?(steps: readonly LaneStep[]): Promise<number>
  close(): Promise<void>
}

export interface OpenLanes {
  /** How many run at the same time. */
  readonly lanes: number
  /** `assemble`: the module, which imports `env.memory` of exactly `pages` pages, shared between threads or not. */
  open(assemble: (shared: boolean) => Uint8Array<ArrayBuffer>, pages: number): Promise<Lanes>
}

export const PAGE_BYTES = 65_536
