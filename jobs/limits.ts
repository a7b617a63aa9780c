// Every bound of the service, with its reason. Those that depend on the machine can be set when it starts.

const GIB = 1024 ** 3

export interface Limits {
  /** One upload: a shard of a checkpoint is seldom above 5 GB. */
  readonly maxBlobBytes: number
  /** All uploads together. */
  readonly blobQuotaBytes: number
  /** All artifacts together, the one in the making included. */
  readonly artifactQuotaBytes: number
  /** Waiting jobs; one runs at a time, so a longer queue only hides that the service is too slow. */
  readonly maxQueued: number
  /** Records kept, finished ones included; each holds its recipe in memory. */
  readonly maxJobs: number
  /** A merge of 70 B parameters from a slow disk takes an hour or two. */
  readonly jobTimeoutMs: number
  /** Between two comments on an event stream; below the idle limits of common proxies. */
  readonly keepAliveMs: number
}

export const defaultLimits: Limits = {
  maxBlobBytes: 8 * GIB,
  blobQuotaBytes: 64 * GIB,
  artifactQuotaBytes: 64 * GIB,
  maxQueued: 64,
  maxJobs: 10_000,
  jobTimeoutMs: 6 * 3_600_000,
  keepAliveMs: 15_000,
}

/** A recipe of a thousand adapters is 300 kB. */
export const MAX_BODY_BYTES = 1024 * 1024
/** At once; each holds a file and a hash. */
export const MAX_UPLOADS = 16
/** Event streams at once; each holds a connection. */
export const MAX_STREAMS = 64
/** Connections at once, those included. */
export const MAX_CONNECTIONS = 256
/** A connection on which nothing moves: an upload that stalls gives its place back. */
export const IDLE_MS = 120_000
/** A job that takes the process down with it is not tried for ever. */
export const MAX_ATTEMPTS = 3
/** JavaScript objects of a job, in MiB: hostile input ends the job, not the service. Tensors are not counted here. */
export const WORKER_HEAP_MIB = 4_096
/** Progress is for people. */
export const PROGRESS_EVERY_MS = 100
/** Jobs of one list answer. */
export const MAX_LISTED = 1_000
/** Names of missing files that one answer repeats. */
export const MAX_NAMED = 20
