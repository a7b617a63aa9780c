// Runs in the origin's private file system. What is written shows when it is whole: a writable stream is a copy until it is
// closed, whatever ends the page before.
import type { RunFolder } from '../run/host.ts'
import { blobSource } from './blob-source.ts'
import type { RunStore } from './run-store.ts'

const FOLDER = 'sidepath-runs'

/** A page that is not served from this machine or by TLS has none, and older browsers only write to it from workers. */
export function hasOpfs(): boolean {
  return (
    typeof navigator.storage?.getDirectory === 'function' &&
    typeof FileSystemFileHandle === 'function' &&
    'createWritable' in FileSystemFileHandle.prototype
  )
}

export async function openOpfs(): Promise<RunStore> {
  const root = await (await navigator.storage.getDirectory()).getDirectoryHandle(FOLDER, { create: true })
  return {
    kind: 'opfs',
    async ids() {
      const found: string[] = []
      for await (const name of root.keys()) found.push(name)
      return found
    },
    open: (id) => runFolder(root, id),
    remove: (id) => root.removeEntry(id, { recursive: true }).catch(ignoreMissing),
  }
}

function runFolder(root: FileSystemDirectoryHandle, id: string): RunFolder {
  const find = async (path: string, create: boolean): Promise<FileSystemFileHandle> => {
    const folders = [id, ...path.split('/')]
    const name = folders.pop() ?? ''
    let folder = root
    for (const child of folders) folder = await folder.getDirectoryHandle(child, { create })
    return folder.getFileHandle(name, { create })
  }
  const write = async (path: string, bytes: Uint8Array, isAppended: boolean): Promise<void> => {
    const handle = await find(path, true)
    const position = isAppended ? (await handle.getFile()).size : 0
    const stream = await handle.createWritable({ keepExistingData: isAppended })
    try {
      await stream.write({ type: 'write', position, data: bytes as Uint8Array<ArrayBuffer> })
    } catch (error) {
      await stream.abort().catch(() => {})
      throw error
    }
    await stream.close()
  }
  return {
    name: id,
    async open(path) {
      const handle = await find(path, false).catch(ignoreMissing)
      return handle && blobSource(`${id}/${path}`, await handle.getFile())
    },
    replace: (path, bytes) => write(path, bytes, false),
    append: (path, bytes) => write(path, bytes, true),
  }
}

function ignoreMissing(error: unknown): undefined {
  if (error instanceof DOMException && error.name === 'NotFoundError') return undefined
  throw error
}
