// Runs in IndexedDB: a file is a value, and a transaction leaves the new one or the old one.
import type { RunFolder } from '../run/host.ts'
import { blobSource } from './blob-source.ts'
import type { RunStore } from './run-store.ts'

const DATABASE = 'sidepath-runs'
const FILES = 'files'

export async function openIndexedDb(): Promise<RunStore> {
  const opening = indexedDB.open(DATABASE, 1)
  opening.onupgradeneeded = () => opening.result.createObjectStore(FILES)
  const database = await settled(opening)
  const ofRun = (id: string) => IDBKeyRange.bound([id], [id, []])
  return {
    kind: 'indexeddb',
    async ids() {
      const keys = await settled(database.transaction(FILES).objectStore(FILES).getAllKeys())
      return [...new Set(keys.map((key) => (key as [string, string])[0]))]
    },
    open: (id) => runFolder(database, id),
    async remove(id) {
      const transaction = database.transaction(FILES, 'readwrite')
      transaction.objectStore(FILES).delete(ofRun(id))
      await committed(transaction)
    },
  }
}

function runFolder(database: IDBDatabase, id: string): RunFolder {
  const change = async (path: string, make: (before: Uint8Array | undefined) => Uint8Array): Promise<void> => {
    // `strict`: on the disk, not only with the system, once it is said to be done.
    const transaction = database.transaction(FILES, 'readwrite', { durability: 'strict' })
    const files = transaction.objectStore(FILES)
    const before = files.get([id, path])
    before.onsuccess = () => files.put(make(before.result as Uint8Array | undefined), [id, path])
    await committed(transaction)
  }
  return {
    name: id,
    async open(path) {
      const bytes = await settled(database.transaction(FILES).objectStore(FILES).get([id, path]))
      return bytes && blobSource(`${id}/${path}`, new Blob([bytes as Uint8Array<ArrayBuffer>]))
    },
    replace: (path, bytes) => change(path, () => bytes),
    append: (path, bytes) =>
      change(path, (before = new Uint8Array()) => {
        const whole = new Uint8Array(before.length + bytes.length)
        whole.set(before)
        whole.set(bytes, before.length)
        return whole
      }),
  }
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error)
  })
}

function committed(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve()
    transaction.onabort = () => reject(transaction.error)
  })
}
