// What a verification needs, on this machine: graphs that ONNX Runtime opens, and temporary folders for those it makes.
import { join } from 'node:path'
import type { GraphFolder, VerifyHost } from '../compiler/verify/session.ts'
import { nodeHost, openFolder, stageFolder } from '../runtime/disk.ts'
import { openSession } from '../runtime/node.ts'

export function graphFolder(path: string): GraphFolder {
  return { folder: openFolder(path), openGraph: (graph) => openSession(join(path, graph)) }
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
