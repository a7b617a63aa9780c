// workerd outlives a parent that is killed with -9, and would keep the port and the database. A tiny shell holds a pipe
// that closes when this process ends, however it ends, and then ends workerd.
import { spawn, spawnSync } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'

const LOOK_EVERY_MS = 10
const LOOK_TIMES = 500

/** Waits for the child whose command is `name`, then ties its life to ours; the result unties it, for an orderly end. */
export async function endWithParent(name: string): Promise<() => void> {
  let pid: number | undefined
  for (let times = 0; pid === undefined && times < LOOK_TIMES; times++) {
    pid = await childNamed(name)
    if (pid === undefined) await delay(LOOK_EVERY_MS)
  }
  if (pid === undefined || process.platform === 'win32') return () => {}
  // Its own process group, so that a signal to ours does not end the guard first.
  const shell = spawn('sh', ['-c', `cat >/dev/null; kill -9 ${pid}`], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  shell.unref()
  return () => {
    if (shell.pid !== undefined && shell.exitCode === null) process.kill(-shell.pid, 'SIGKILL')
  }
}

async function childNamed(name: string): Promise<number | undefined> {
  if (process.platform !== 'linux') {
    const { stdout } = spawnSync('ps', ['-A', '-o', 'pid=,ppid=,comm='], { encoding: 'utf8' })
    const rows = (stdout ?? '').split('\n').map((line) => line.trim().split(/\s+/))
    const row = rows.find(([, parent, command]) => Number(parent) === process.pid && command?.endsWith(name))
    return row && Number(row[0])
  }
  // Not every Linux image has `ps`; all have /proc.
  for (const task of await readdir('/proc/self/task')) {
    const children = await readFile(`/proc/self/task/${task}/children`, 'utf8').catch(() => '')
    for (const child of children.split(' ').filter(Boolean)) {
      const command = await readFile(`/proc/${child}/comm`, 'utf8').catch(() => '')
      if (command.trim() === name) return Number(child)
    }
  }
  return undefined
}
