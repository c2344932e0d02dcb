// Search in pages that were opened from a folder, for which browsers start no workers: the script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.body.appendChild(document.createElement("iframe"))
      frame.hidden = true
      const inner = frame.contentWindow
      inner.document.open()
      inner.document.write("<!doctype html><title>search</title><body>")
      inner.document.close()
      const load = (source) =>
        new Promise((resolve, reject) => {
          const script = inner.document.createElement("script")
          Object.assign(script, { src: source, onload: resolve, onerror: reject })
          inner.document.body.append(script)
        })
      inner.importScripts = (...sources) => sources.reduce((done, next) => done.then(() => load(next)), Promise.resolve())
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      this.inner = inner
      this.ready = load(new URL(url, location.href))
    }
    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data })))
    }
    terminate() {}
  }
}
