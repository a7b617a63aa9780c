// What a repository holds at one commit: the revision is resolved first, and everything after asks for the commit.
import { listFiles, modelInfo } from '@huggingface/hub'
import * as z from 'zod'
import { checkListed } from './check-path.ts'
import { PullError, Transient } from './errors.ts'
import type { Hub } from './hub.ts'
import type { Reference } from './reference.ts'

export interface RemoteFile {
  readonly path: string
  readonly bytes: number
  /** Of the content: SHA-256 where it lies in LFS, else SHA-1 over git's blob header and the content. */
  readonly digest: { readonly kind: 'sha256' | 'git'; readonly hex: string }
}

/** The largest public repositories have some ten thousand files. */
const MAX_ENTRIES = 100_000
/** The Hub's own limit for a file. */
const MAX_FILE_BYTES = 500e9

const Commit = z.string().regex(/^[0-9a-f]{40}$/)
const Bytes = z.int().min(0).max(MAX_FILE_BYTES)
const Entry = z.object({
  type: z.string(),
  path: z.string().min(1).max(4096),
  size: Bytes,
  oid: Commit.optional(),
  lfs: z.object({ oid: z.string().regex(/^[0-9a-f]{64}$/), size: Bytes }).optional(),
})

/** The token stays with `hub`: the library, whose errors repeat what it was given, never has it. */
export async function resolveCommit(hub: Hub, { repo, revision }: Reference): Promise<string> {
  const info = await asked(repo, () =>
    modelInfo({ name: repo, revision, additionalFields: ['sha'], hubUrl: hub.url, fetch: hub.api }),
  )
  const commit = Commit.safeParse(info.sha)
  if (!commit.success) throw malformed(repo, 'has no commit hash')
  if (Commit.safeParse(revision).success && commit.data !== revision) {
    throw new PullError(
      'hub-answer',
      `${repo}: the commit ${revision} was asked for and ${commit.data} given; check HF_ENDPOINT.`,
    )
  }
  return commit.data
}

export async function listCommit(hub: Hub, repo: string, commit: string): Promise<RemoteFile[]> {
  return asked(repo, async () => {
    const files: RemoteFile[] = []
    let entries = 0
    let requests = 0
    // A listing whose pages are empty and never end.
    const counting: typeof fetch = (...args) => {
      requests += 1
      if (requests > MAX_ENTRIES / 100) throw malformed(repo, 'has a listing without an end')
      return hub.api(...args)
    }
    const from = { type: 'model', name: repo } as const
    for await (const entry of listFiles({
      repo: from,
      revision: commit,
      recursive: true,
      hubUrl: hub.url,
      fetch: counting,
    })) {
      entries += 1
      if (entries > MAX_ENTRIES) {
        throw new PullError('too-large', `${repo} lists more than ${MAX_ENTRIES} files; at most those are looked at.`)
      }
      const file = toFile(repo, entry)
      if (file !== undefined) files.push(file)
    }
    return files
  })
}

function toFile(repo: string, entry: unknown): RemoteFile | undefined {
  const parsed = Entry.safeParse(entry)
  if (!parsed.success) throw malformed(repo, 'has an entry that is no file or folder')
  const { type, path, size, oid, lfs } = parsed.data
  checkListed(repo, path)
  if (type !== 'file') return undefined
  if (lfs !== undefined) return { path, bytes: lfs.size, digest: { kind: 'sha256', hex: lfs.oid } }
  if (oid === undefined) throw malformed(repo, 'has a file without a digest')
  return { path, bytes: size, digest: { kind: 'git', hex: oid } }
}

async function asked<T>(repo: string, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask()
  } catch (error) {
    if (error instanceof PullError) throw named(repo, error)
    if (error instanceof Transient) throw new Transient(named(repo, error.final), error.retryAfterMs)
    // The library reads the answer without looking at it first.
    if (error instanceof SyntaxError || error instanceof TypeError) throw malformed(repo, 'is no JSON of the Hub')
    throw error
  }
}

function named(repo: string, { code, message }: PullError): PullError {
  return message.startsWith(repo) ? new PullError(code, message) : new PullError(code, `${repo}: ${message}`)
}

function malformed(repo: string, what: string): PullError {
  return new PullError('hub-answer', `${repo}: the Hub's answer ${what}; check HF_ENDPOINT, or try later.`)
}
