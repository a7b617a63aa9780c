// The end of a turn of the event loop, in Node and in a page: what has arrived meanwhile is seen first.

const { setImmediate } = globalThis as { setImmediate?: (done: () => void) => unknown }

/** A page's timers wait four milliseconds; a message does not. */
function postTurn(done: () => void): void {
  const { port1, port2 } = new MessageChannel()
  port1.addEventListener('message', () => {
    port1.close()
    done()
  })
  port1.start()
  port2.postMessage(null)
}

export function nextTurn<T>(value: T): Promise<T> {
  return new Promise((resolve) => (setImmediate ?? postTurn)(() => resolve(value)))
}
