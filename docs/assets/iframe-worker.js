// A page opened from a disk (file://) may not start a Worker, which the search wants. There the worker's script runs in
// a hidden frame of the page instead, and messages go through this class.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.ready = new Promise((resolve, reject) => {
        this.frame.onload = () => {
          const inside = this.frame.contentWindow;
          inside.postMessage = (data) => {
            const message = new MessageEvent("message", { data });
            this.dispatchEvent(message);
            if (this.onmessage) this.onmessage(message);
          };
          const script = inside.document.createElement("script");
          script.onload = resolve;
          script.onerror = reject;
          script.src = new URL(url, location.href).href;
          inside.document.body.append(script);
        };
      });
      document.body.append(this.frame);
    }
    postMessage(data) {
      const inside = () => this.frame.contentWindow;
      this.ready.then(() => inside().dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
