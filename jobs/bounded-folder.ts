// An output folder that takes so many bytes and no more: what a small upload may unfold into is not known beforehand.
import type { OutFolder } from '../compiler/host.ts'
import { JobsError } from './errors.ts'

export function boundedFolder(out: OutFolder, maxBytes: number): OutFolder {
  let bytes = 0
  return {
    async create(path) {
      const sink = await out.create(path)
      return {
        async write(chunk) {
          bytes += chunk.length
          if (bytes > maxBytes) {
            throw new JobsError('quota_exceeded', `there is room for ${maxBytes} bytes; delete finished jobs`)
          }
          await sink.write(chunk)
        },
        close: () => sink.close(),
      }
    },
  }
}
