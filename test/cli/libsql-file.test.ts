// The thread that owns a SQLite file: statements of many callers in one transaction, and each caller on his own.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@libsql/client'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Durability, type Executor, openFile } from '../../cli/gateway/libsql-file.ts'

let folder: string
let count = 0
let path: string
let file: Executor

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sidepath-libsql-'))
})
afterAll(() => rm(folder, { recursive: true }))
afterEach(() => file.close())

const insert = (id: number, note: string | null = null) => ({ sql: 'INSERT INTO t VALUES (?, ?)', args: [id, note] })
const idsOf = async () => {
  const [found] = await file.execute([{ sql: 'SELECT id FROM t ORDER BY id', args: [] }])
  return found?.rows.map(([id]) => id)
}

describe.each<Durability>(['power', 'process'])('a file with durability %s', (durability) => {
  beforeEach(async () => {
    path = join(folder, `${count++}.db`)
    file = await openFile(path, durability)
    await file.execute([{ sql: 'CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)', args: [] }])
  })

  it('commits what came together, and undoes alone what fails alone', async () => {
    const settled = await Promise.allSettled([
      file.execute([insert(1)]),
      file.execute([insert(1)]),
      file.execute([insert(2)]),
      file.execute([insert(3), insert(2)]),
      file.execute([insert(4), insert(5)]),
    ])
    expect(settled.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'rejected', 'fulfilled'])
    expect(await idsOf()).toEqual([1, 2, 4, 5])
    expect(settled[1]).toMatchObject({ reason: { code: expect.stringMatching(/^SQLITE_CONSTRAINT/) } })
  })

  it('has written what it says is written: another connection sees it', async () => {
    await Promise.all(Array.from({ length: 600 }, (_, id) => file.execute([insert(id)])))
    const other = createClient({ url: `file:${path}` })
    expect((await other.execute('SELECT count(*) AS n FROM t')).rows[0]?.n).toBe(600)
    other.close()
  })

  it('answers in the order of asking, with rows, columns and changes', async () => {
    const [, all, changed] = await Promise.all([
      file.execute([insert(7, 'é')]),
      file.execute([{ sql: 'SELECT note, id AS number FROM t', args: [] }]),
      file.execute([{ sql: 'UPDATE t SET note = ?', args: ['x'] }]),
    ])
    expect(all[0]).toMatchObject({ columns: ['note', 'number'], rows: [['é', 7]] })
    expect(changed[0]).toMatchObject({ changes: 1 })
  })

  it('runs a statement again after it failed, and after the schema changed', async () => {
    await file.execute([insert(1)])
    await expect(file.execute([insert(1)])).rejects.toThrow('SQLITE_CONSTRAINT')
    await file.execute([insert(2)])
    const select = { sql: 'SELECT * FROM t WHERE id = 2', args: [] }
    expect((await file.execute([select]))[0]?.rows).toEqual([[2, null]])
    await file.execute([{ sql: "ALTER TABLE t ADD COLUMN more TEXT DEFAULT 'm'", args: [] }])
    expect((await file.execute([select]))[0]).toMatchObject({ columns: ['id', 'note', 'more'], rows: [[2, null, 'm']] })
  })

  it('refuses what comes after its end, and finishes what came before', async () => {
    const last = file.execute([insert(1)])
    file.close()
    await expect(file.execute([insert(2)])).rejects.toThrow('closed')
    expect((await last)[0]).toMatchObject({ changes: 1 })
  })
})
