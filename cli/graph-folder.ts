// What a verification needs, on this machine: graphs that ONNX Runtime opens, and temporary folders for those it makes.
import { join } from 'node:path'
import type { ProbeFolder, ProbeHost } from '../compiler/surgery/probe-session.ts'
import type { VerifyHost } from '../compiler/verify/session.ts'
import { nodeHost, openFolder, stageFolder } from '../runtime/disk.ts'
import { openSession } from '../runtime/node.ts'

export function graphFolder(path: string) {
  return { folder: openFolder(path), openGraph: (graph: string) => openSession(join(path, graph)) }
}

/** `parent`: where the temporary folders are made; it needs room for a copy of the artifact's weights. */
export function verifyHost(parent: string): VerifyHost {
  return {
    ...nodeHost,
    async scratch() {
      const staged = await stageFolder(join(parent, 'sidepath-verify'))
      return { ...graphFolder(staged.path), out: staged, discard: () => staged.discard() }
    },
  }
}

/** What a verification of surgery needs: `original` and `made` are folders; `parent` as for `verifyHost`. */
export function probeHost(original: string, made: string, parent: string, maxBytes?: number): ProbeHost {
  const probeFolder = (path: string): ProbeFolder => graphFolder(path)
  return {
    ...(maxBytes !== undefined && { maxBytes }),
    original: probeFolder(original),
    made: probeFolder(made),
    async scratch() {
      const staged = await stageFolder(join(parent, 'sidepath-verify'))
      return { ...probeFolder(staged.path), out: staged, discard: () => staged.discard() }
    },
  }
}
