// What the compiler needs from the platform, declared here so that it runs anywhere: files as bytes, and SHA-256.
// Node supplies these from `runtime/disk.ts`; a browser can supply them from Blobs.

/** Random-access bytes of one file. Reads past `size` are refused by the implementation. */
export interface ByteSource {
  /** What errors call it, e.g. `examples/demo/base/model.safetensors`. */
  readonly name: string
  readonly size: number
  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>>
  /** Fills `target` from `offset` on, without a copy in between; for hosts that can. */
  readInto?(offset: number, target: Uint8Array): Promise<void>
  /** What the host's lanes know the file by; for hosts whose lanes read files themselves. */
  readonly laneFile?: number
  close(): Promise<void>
}

/** A folder to read from. Paths are relative, with `/`, and never leave the folder. */
export interface Folder {
  readonly name: string
  /** `undefined` when there is no such file. */
  open(path: string): Promise<ByteSource | undefined>
}

/** One file being written, front to back. */
export interface ByteSink {
  write(bytes: Uint8Array): Promise<void>
  close(): Promise<void>
  /** For hosts whose lanes write files themselves. Who uses it writes nothing by `write`. */
  readonly random?: RandomSink
}

/** The same file, written in any order. */
export interface RandomSink {
  readonly laneFile: number
  writeAt(offset: number, bytes: Uint8Array): Promise<void>
  /** Tells of bytes that a lane has written. */
  wrote(bytes: number): void
}

/** A folder to write into. It becomes visible at its final name only after the whole compile succeeded. */
export interface OutFolder {
  create(path: string): Promise<ByteSink>
}

/** Incremental SHA-256. */
export interface Sha256 {
  update(bytes: Uint8Array): void
  /** Lower-case hex of everything so far; the object is spent afterwards. */
  hex(): string
}

export interface Host {
  sha256(): Sha256
}
